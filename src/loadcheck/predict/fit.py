"""The settings that fit a model on a card, best first; and if none do, what would.

predict/search.py searches for each of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from loadcheck.predict.card import card_from_table
from loadcheck.predict.case import Case
from loadcheck.predict.search import NOTHING, Proposal, Search
from loadcheck.predict.stack import Stack
from loadcheck.specs.files import changed
from loadcheck.specs.gpu import Fact, gpu_key, load_gpus
from loadcheck.specs.profile import Profile
from loadcheck.specs.settings import flags
from loadcheck.units import to_gib

Goal = Literal["length", "concurrency", "training"]
GOALS: tuple[Goal, ...] = get_args(Goal)

SEARCHED = ("gpu_memory_utilization", "conservativeness")
"""The settings that `fit` always searches for, whatever the goal."""


@dataclass(frozen=True, slots=True)
class Knob:
    """The effect of changing one setting, in bytes: on the card's peak, and on the KV cache within it."""

    change: str
    peak_bytes: int
    kv_cache_bytes: int


@dataclass(frozen=True, slots=True)
class Fit:
    """The answer to "what fits": proposals, best first, the effect of each knob, and close thresholds.

    Attributes:
        base: the profile from which the search started.
        would_fit: what would fit if nothing fits as requested, closest to the request first.
    """

    goal: Goal
    base: Profile
    proposals: tuple[Proposal, ...]
    knobs: tuple[Knob, ...]
    edges: tuple[str, ...]
    would_fit: tuple[str, ...]

    def to_json(self, command: Callable[[Profile], str] | None = None) -> dict[str, Any]:
        """`flags` turn `base` into a proposal; `command`, if given, returns the whole command that loads a profile."""
        return {
            "goal": self.goal,
            "proposals": [
                _proposal_json(proposal, self.base)
                | ({} if command is None else {"command": command(proposal.profile)})
                for proposal in self.proposals
            ],
            "knobs": [
                {
                    "change": knob.change,
                    "peak_device_gib": round(to_gib(knob.peak_bytes), 3),
                    "kv_cache_gib": round(to_gib(knob.kv_cache_bytes), 3),
                }
                for knob in self.knobs
            ],
            "edges": list(self.edges),
            "would_fit": list(self.would_fit),
        }


def _proposal_json(proposal: Proposal, base: Profile) -> dict[str, Any]:
    profile = proposal.profile
    return {
        "settings": {
            "max_seq_length": profile.max_seq_length,
            "gpu_memory_utilization": profile.gpu_memory_utilization,
            "conservativeness": profile.conservativeness,
            "max_lora_rank": profile.max_lora_rank,
        },
        "flags": flags(proposal.profile, base),
        **proposal.prediction.memory.to_json(),
        "headroom_gib": round(to_gib(proposal.headroom_bytes), 2),
        "figures": proposal.prediction.figures.to_json(),
    }


def searched(goal: Goal, given: frozenset[str] = NOTHING) -> frozenset[str]:
    """The profile's keys that `fit` searches for: those of the goal, except the ones that were given."""
    return frozenset({*SEARCHED, *(["max_seq_length"] if goal == "length" else [])} - given)


def fit(stack: Stack, case: Case, goal: Goal = "length", given: frozenset[str] = NOTHING) -> Fit:
    """What fits the case's model on its card, starting from its profile's rank, target modules and length.

    Args:
        goal: what to maximize: tokens per request, concurrent requests, or memory left for training.
        given: keys of the profile that must not be changed.
    """
    search, profile = Search(stack, case, given), case.profile
    # with a given length, maximize the number of concurrent requests
    aim: Goal = "concurrency" if goal == "length" and "max_seq_length" in given else goal
    proposals = sorted(_proposals(search, profile, aim), key=lambda proposal: _merit(proposal, aim), reverse=True)
    predictions = [search.predict(profile), *(proposal.prediction for proposal in proposals)]
    return Fit(
        goal=goal,
        base=profile,
        proposals=tuple(_distinct(proposals)),
        knobs=tuple(_knobs(search, proposals[0].profile)) if proposals else (),
        edges=tuple(dict.fromkeys(edge for prediction in predictions for edge in prediction.edges)),
        would_fit=() if proposals else tuple(_would_fit(search, profile, aim)),
    )


def _proposals(search: Search, profile: Profile, goal: Goal) -> Iterator[Proposal]:
    """One proposal for each number of sequences that unsloth can be configured for, or for the given one."""
    kept = "conservativeness" in search.given
    for share in (profile.conservativeness,) if kept else search.stack.sequence_shares:
        scaled = changed(profile, {"conservativeness": share})
        if goal == "length":
            found = search.longest(scaled)
        elif goal == "training":
            found = search.lowest_utilization(scaled)
        else:
            found = search.highest_utilization(scaled)
        if found is not None:
            yield search.same_at_lower_utilization(found)


def _merit(proposal: Proposal, goal: Goal) -> tuple[float, ...]:
    figures = proposal.prediction.figures
    concurrency = figures.max_concurrency or 0.0
    if goal == "length":
        return (proposal.profile.max_seq_length, concurrency)
    if goal == "concurrency":
        return (min(concurrency, figures.max_num_seqs or 0), concurrency)
    return (proposal.headroom_bytes, concurrency)


def _distinct(proposals: list[Proposal]) -> Iterator[Proposal]:
    seen = set()
    for proposal in proposals:
        key = (proposal.profile.max_seq_length, proposal.prediction.figures.max_num_seqs)
        if key not in seen:
            seen.add(key)
            yield proposal


def _knobs(search: Search, profile: Profile) -> Iterator[Knob]:
    """The effect of each setting, changed by one step from `profile`."""
    before = search.predict(profile).figures
    for change, turned in search.stack.knobs(profile):
        after = search.predict(turned).figures
        assert before.peak_device_bytes is not None and after.peak_device_bytes is not None
        assert before.kv_cache_bytes is not None and after.kv_cache_bytes is not None
        yield Knob(
            change, after.peak_device_bytes - before.peak_device_bytes, after.kv_cache_bytes - before.kv_cache_bytes
        )


def _would_fit(search: Search, profile: Profile, goal: Goal) -> Iterator[str]:
    """What would fit where nothing does: fewer of the user's requirements, each with its flags, then another card.

    Where the engine refuses the model with any settings, that is reported instead; another card may still accept it.
    """
    refused = tuple(search.stack.model_refusals(search.case.with_profile(profile)))
    yield from (f"no settings: {obstacle.what}; {obstacle.remedy}" for obstacle in refused)
    if not refused:
        yield from _with_freed_settings(search, profile, goal)
        yield from _with_concessions(search, profile, goal)
    yield from _cards(search, profile)


def _with_freed_settings(search: Search, profile: Profile, goal: Goal) -> Iterator[str]:
    """Searches for the settings that were given, or that are not part of the goal, after all."""
    others: list[tuple[str, Search, Goal]] = []
    if search.given.intersection(SEARCHED):
        others.append(("other settings than those given", search.other(given=search.given.difference(SEARCHED)), goal))
    if goal != "length":
        others.append(("requests no longer than fit", search.other(given=search.given - {"max_seq_length"}), "length"))
    for what, other, wanted in others:
        if (found := _best(other, profile, wanted)) is not None:
            yield f"{what}: {flags(found.profile, profile)}"


def _with_concessions(search: Search, profile: Profile, goal: Goal) -> Iterator[str]:
    """For each thing that the user could give up, the mildest form that fits."""
    for concession in search.stack.concessions(search.case.with_profile(profile)):
        for what, case in concession:
            if (found := _best(search.other(case), case.profile, goal)) is not None:
                yield f"{what}: {flags(found.profile, profile)}"
                break


def _best(search: Search, profile: Profile, goal: Goal) -> Proposal | None:
    proposals = list(_proposals(search, profile, goal))
    return max(proposals, key=lambda proposal: _merit(proposal, goal)) if proposals else None


def _cards(search: Search, profile: Profile) -> Iterator[str]:
    """The same kind of card with nothing else on it, and larger ones."""
    own = gpu_key(search.card.name)
    for key, gpu in load_gpus().items():
        known = isinstance(gpu.total_bytes, Fact) and isinstance(gpu.used_before_bytes, Fact)
        if not known or gpu.refused is not None:
            continue
        card = card_from_table(key)
        more = card.free_bytes > search.card.free_bytes if key == own else card.total_bytes > search.card.total_bytes
        if more and search.other(replace(search.case, card=card)).highest_utilization(profile) is not None:
            yield f"{key} with nothing else on it" if key == own else f"a bigger card: {key}"
