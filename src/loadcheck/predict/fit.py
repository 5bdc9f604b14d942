"""The settings that fit a model on a card, best first; and when none do, what would.

A card has room for what vLLM takes (its budget) and for what lies outside it (LoRA slots, CUDA graphs, adapters, training). The
largest utilization that leaves room for the second, and as much to spare as the predicted peak may be off, is found by bisection;
so is the longest length that the first still holds. Settings are for work, so what must fit is the peak of a full batch, not only
that of the load with its one short answer (`Prediction.full_batch_peak_bytes`).
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from loadcheck.predict.bands import PEAK_SLACK
from loadcheck.predict.card import Card, card_from_table
from loadcheck.predict.margin import amounts_left, slack
from loadcheck.predict.prediction import Prediction, predict
from loadcheck.predict.refusals import model_refusals
from loadcheck.specs.files import changed
from loadcheck.specs.gpu import Fact, gpu_key, load_gpus
from loadcheck.specs.model import ModelConfig
from loadcheck.specs.profile import VLLM_LORA_RANKS, Adapters, Profile
from loadcheck.units import to_gib

Goal = Literal["length", "concurrency", "training"]
GOALS: tuple[Goal, ...] = ("length", "concurrency", "training")

UTILIZATION_STEPS = 100
"""Utilization is proposed in hundredths; the load log prints no more of it."""
LENGTH_STEP = 256
"""unsloth rounds its own token count by it (unsloth_zoo/vllm_utils.py:773-782)."""
CONSERVATIVENESS = (1.0, 0.5, 0.25, 0.1)
SEARCHED = ("gpu_memory_utilization", "conservativeness")
"""What `fit` looks for whatever the goal."""
NOTHING: frozenset[str] = frozenset()
MLP_ONLY = ("gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, slots=True)
class Proposal:
    """Settings that fit, and what the load would be with them.

    Attributes:
        headroom_bytes: what is left of the card at the peak, of the load or of a full batch after it, whichever is larger.
    """

    profile: Profile
    prediction: Prediction
    headroom_bytes: int

    def flags(self, base: Profile) -> str:
        """The flags of `loadcheck load` that turn `base` into these settings."""
        return flags(self.profile, base)


@dataclass(frozen=True, slots=True)
class Knob:
    """What turning one setting moves, in bytes: the card's peak, and the KV cache within it."""

    change: str
    peak_bytes: int
    kv_cache_bytes: int


@dataclass(frozen=True, slots=True)
class Fit:
    """The answer to "what fits": proposals best first, what each knob moves, and which edges are near.

    Attributes:
        would_fit: where nothing fits as asked, what would, nearest to what was asked first.
    """

    goal: Goal
    proposals: tuple[Proposal, ...]
    knobs: tuple[Knob, ...]
    edges: tuple[str, ...]
    would_fit: tuple[str, ...]

    def to_json(self, base: Profile, command: Callable[[Profile], str]) -> dict[str, Any]:
        """`flags` turn `base` into a proposal; `command` says the whole command that loads a profile."""
        return {
            "goal": self.goal,
            "proposals": [
                {**_proposal_json(proposal, base), "command": command(proposal.profile)} for proposal in self.proposals
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
        "flags": proposal.flags(base),
        "busy_peak_gib": round(to_gib(proposal.prediction.full_batch_peak_bytes), 2),
        "headroom_gib": round(to_gib(proposal.headroom_bytes), 2),
        "figures": proposal.prediction.figures.to_json(),
    }


class Search:
    """Predictions of one model on one card, for many settings. `given` are the profile's keys that are kept as they are."""

    def __init__(
        self, config: ModelConfig, card: Card, ram_available_bytes: int, given: frozenset[str] = NOTHING
    ) -> None:
        self.config, self.card, self._ram, self.given = config, card, ram_available_bytes, given

    def other(
        self, config: ModelConfig | None = None, card: Card | None = None, given: frozenset[str] | None = None
    ) -> Search:
        """The same search of another model, on another card, or with other keys kept."""
        return Search(config or self.config, card or self.card, self._ram, self.given if given is None else given)

    def predict(self, profile: Profile) -> Prediction:
        return predict(self.config, profile, self.card, self._ram)

    def propose(self, profile: Profile) -> Proposal | None:
        """`profile` as it is, where it fits even if the prediction is off by as much as it may be."""
        prediction = self.predict(profile)
        if not (prediction.fits and self._holds(prediction)):
            return None
        left = amounts_left(self.config, self.card, profile, prediction)
        if any(left[short] < need for short, need in slack(self.card).items()):
            return None
        return Proposal(profile, prediction, self.card.total_bytes - prediction.full_batch_peak_bytes)

    def _holds(self, prediction: Prediction) -> bool:
        """Whether the card holds a full batch even if the prediction is off by as much as it may be."""
        return prediction.full_batch_peak_bytes <= (1 - PEAK_SLACK) * self.card.total_bytes

    def fullest(self, profile: Profile) -> Proposal | None:
        """The highest utilization whose peak the card holds with some room to spare, in hundredths; or the one given."""
        if "gpu_memory_utilization" in self.given:
            return self.propose(profile)

        def holds(hundredths: int) -> bool:
            return self._holds(self.predict(at_utilization(profile, hundredths)))

        best = last_true(holds, 1, UTILIZATION_STEPS - 1)
        return None if best is None else self.propose(at_utilization(profile, best))

    def lowest(self, proposal: Proposal) -> Proposal:
        """The same load at the lowest utilization, in hundredths, that gives all its figures; or the one given.

        Above some utilization unsloth caps the budget by what it keeps for training (unsloth_zoo/vllm_utils.py:759-763), so that a
        higher one asks for more and gets the same.
        """
        if "gpu_memory_utilization" in self.given:
            return proposal
        profile, figures = proposal.profile, proposal.prediction.figures
        highest = round(profile.gpu_memory_utilization * UTILIZATION_STEPS)

        def is_same(fewer: int) -> bool:
            return self.predict(at_utilization(profile, highest - fewer)).figures == figures

        fewer = last_true(is_same, 0, highest - 1)
        return (self.propose(at_utilization(profile, highest - fewer)) if fewer else None) or proposal

    def leanest(self, profile: Profile) -> Proposal | None:
        """The lowest utilization that still holds one request of full length, in hundredths; or the one given."""
        if "gpu_memory_utilization" in self.given:
            return self.propose(profile)
        for hundredths in range(1, UTILIZATION_STEPS):
            if (proposal := self.propose(at_utilization(profile, hundredths))) is not None:
                return proposal
        return None

    def longest(self, profile: Profile) -> Proposal | None:
        """The longest max_seq_length that fits at its fullest utilization, in steps of 256 tokens."""

        def fits(steps: int) -> bool:
            return self.fullest(of_length(profile, steps * LENGTH_STEP)) is not None

        least = 1 if fits(1) else 2  # a batch of 256 tokens is too short for more sequences than that
        most = last_true(fits, least, self.config.max_position_embeddings // LENGTH_STEP)
        return None if most is None else self.fullest(of_length(profile, most * LENGTH_STEP))


# Keys with a flag of `loadcheck load` that move memory, or say whose it is.
_VALUES = ("model", "weights", "max_seq_length", "gpu_memory_utilization", "conservativeness", "max_lora_rank")
_SWITCHES = {
    "load_in_4bit": ("--load-in-4bit", "--load-in-16bit"),
    "enforce_eager": ("--enforce-eager", "--cuda-graphs"),
}
_OF_ADAPTERS = {"r": "--lora-r", "lora_alpha": "--lora-alpha", "lora_dropout": "--lora-dropout"}


def flags(profile: Profile, base: Profile) -> str:
    """The flags of `loadcheck load` that turn `base` into `profile`, of the settings that move memory, quoted for a shell."""
    parts = [
        f"--{name.replace('_', '-')} {shlex.quote(str(getattr(profile, name)))}"
        for name in _VALUES
        if getattr(profile, name) != getattr(base, name)
    ]
    mine, theirs = profile.adapters, base.adapters
    if mine is not None and theirs is not None:
        parts += [
            f"{flag} {getattr(mine, name)}"
            for name, flag in _OF_ADAPTERS.items()
            if getattr(mine, name) != getattr(theirs, name)
        ]
        if mine.target_modules != theirs.target_modules:
            parts.append(f"--target-modules {','.join(mine.target_modules)}")
    for name, (on, off) in _SWITCHES.items():
        if getattr(profile, name) != getattr(base, name):
            parts.append(on if getattr(profile, name) else off)
    if profile.training.steps != base.training.steps:
        parts.append(f"--train-steps {profile.training.steps}")
    return " ".join(parts)


def load_command(profile: Profile, base: Profile, name: str) -> str:
    """The whole command that loads `profile`, where `name` is what `base` is loaded by: env/profiles' name or a file."""
    return f"loadcheck load {shlex.quote(name)} {flags(profile, base)}".rstrip()


def searched(goal: Goal, given: frozenset[str] = NOTHING) -> frozenset[str]:
    """The keys of a profile that `fit` looks for: those of the goal, but what was given is kept."""
    return frozenset({*SEARCHED, *(["max_seq_length"] if goal == "length" else [])} - given)


def fit(
    config: ModelConfig,
    profile: Profile,
    card: Card,
    ram_available_bytes: int,
    goal: Goal = "length",
    given: frozenset[str] = NOTHING,
) -> Fit:
    """What fits `config` on `card`, starting from `profile`'s rank, targets and length; its keys that were `given` are kept."""
    search = Search(config, card, ram_available_bytes, given)
    # of requests whose length is given, the most at once
    aim: Goal = "concurrency" if goal == "length" and "max_seq_length" in given else goal
    proposals = sorted(_proposals(search, profile, aim), key=lambda each: _merit(each, aim), reverse=True)
    predictions = [search.predict(profile), *(proposal.prediction for proposal in proposals)]
    return Fit(
        goal=goal,
        proposals=tuple(_distinct(proposals)),
        knobs=tuple(_knobs(search, proposals[0].profile)) if proposals else (),
        edges=tuple(dict.fromkeys(edge for each in predictions for edge in each.edges)),
        would_fit=() if proposals else tuple(_would_fit(search, profile, aim)),
    )


def last_true(holds: Callable[[int], bool], low: int, high: int) -> int | None:
    """The largest number from low to high that `holds`, which holds up to some number and not beyond; None if not at low."""
    if not holds(low):
        return None
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low


def _proposals(search: Search, profile: Profile, goal: Goal) -> Iterator[Proposal]:
    """One proposal for each number of sequences that unsloth can be asked for, or for the one given."""
    kept = "conservativeness" in search.given
    for share in (profile.conservativeness,) if kept else CONSERVATIVENESS:
        scaled = changed(profile, {"conservativeness": share})
        if goal == "length":
            found = search.longest(scaled)
        elif goal == "training":
            found = search.leanest(scaled)
        else:
            found = search.fullest(scaled)
        if found is not None:
            yield search.lowest(found)


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
    """What each setting moves, turned one step from `profile`."""
    before = search.predict(profile).figures
    for change, turned in _turns(profile):
        after = search.predict(turned).figures
        assert before.peak_device_bytes is not None and after.peak_device_bytes is not None
        assert before.kv_cache_bytes is not None and after.kv_cache_bytes is not None
        yield Knob(
            change, after.peak_device_bytes - before.peak_device_bytes, after.kv_cache_bytes - before.kv_cache_bytes
        )


def _turns(profile: Profile) -> Iterator[tuple[str, Profile]]:
    hundredths = round(profile.gpu_memory_utilization * UTILIZATION_STEPS)
    if hundredths > 5:
        yield "gpu_memory_utilization − 0.05", at_utilization(profile, hundredths - 5)
    yield "conservativeness halved", changed(profile, {"conservativeness": profile.conservativeness / 2})
    if profile.max_seq_length >= 2 * LENGTH_STEP:
        yield "max_seq_length halved", of_length(profile, profile.max_seq_length // 2)
    if (smaller := smaller_rank(profile)) is not None:
        yield f"rank {profile.max_lora_rank} → {smaller.max_lora_rank}", smaller
    if profile.adapters is not None and set(profile.adapters.target_modules) > set(MLP_ONLY):
        yield "no q, k, v, o adapters", mlp_only(profile, profile.adapters)
    if not profile.enforce_eager:
        yield "no CUDA graphs", changed(profile, {"enforce_eager": True})


def _would_fit(search: Search, profile: Profile, goal: Goal) -> Iterator[str]:
    """What would fit where nothing does: fewer of the user's wishes, each with its flags, then another card.

    Where the engine refuses the model whatever the settings, that is said instead of wishes; another card may still take it.
    """
    refused = tuple(model_refusals(search.config, profile, search.card))
    yield from (f"no settings: {each.what}; {each.remedy}" for each in refused)
    wishes = () if refused else (*_freed(search, profile, goal), *_fewer_wishes(search, profile, goal))
    for what, others, settings, wanted in wishes:
        if (found := _best(others, settings, wanted)) is not None:
            yield f"{what}: {flags(found.profile, profile)}"
    yield from _cards(search, profile)


Wish = tuple[str, Search, Profile, Goal]
"""What is given up, in words, and the search that is left."""


def _freed(search: Search, profile: Profile, goal: Goal) -> Iterator[Wish]:
    """The settings that were to be kept, or are no part of the goal, looked for after all."""
    if search.given.intersection(SEARCHED):
        yield "other settings than those given", search.other(given=search.given.difference(SEARCHED)), profile, goal
    if goal != "length":
        freed = search.other(given=search.given - {"max_seq_length"})
        yield "requests no longer than fit", freed, profile, "length"


def _fewer_wishes(search: Search, profile: Profile, goal: Goal) -> Iterator[Wish]:
    if search.config.quantization == "16bit":
        quantized = search.other(changed(search.config, {"quantization": "nf4"}))
        what = "a 4-bit checkpoint of the model" if profile.load_in_4bit else "in 4-bit"
        yield what, quantized, changed(profile, {"load_in_4bit": True}), goal
    smaller = profile
    while (next_smaller := smaller_rank(smaller)) is not None:
        smaller = next_smaller
        if _best(search, smaller, goal) is not None:
            yield f"rank {smaller.max_lora_rank}", search, smaller, goal
            break
    if profile.adapters is not None and set(profile.adapters.target_modules) > set(MLP_ONLY):
        yield "no q, k, v, o adapters", search, mlp_only(profile, profile.adapters), goal
    if not profile.enforce_eager:
        yield "no CUDA graphs", search, changed(profile, {"enforce_eager": True}), goal


def _best(search: Search, profile: Profile, goal: Goal) -> Proposal | None:
    proposals = list(_proposals(search, profile, goal))
    return max(proposals, key=lambda each: _merit(each, goal)) if proposals else None


def _cards(search: Search, profile: Profile) -> Iterator[str]:
    """The same kind of card with nothing else on it, and larger ones."""
    own = gpu_key(search.card.name)
    for key, gpu in load_gpus().items():
        known = isinstance(gpu.total_bytes, Fact) and isinstance(gpu.used_before_bytes, Fact)
        if not known or gpu.refused is not None:
            continue
        card = card_from_table(key)
        more = card.free_bytes > search.card.free_bytes if key == own else card.total_bytes > search.card.total_bytes
        if more and search.other(card=card).fullest(profile) is not None:
            yield f"{key} with nothing else on it" if key == own else f"a bigger card: {key}"


def at_utilization(profile: Profile, hundredths: int) -> Profile:
    """The same at another utilization, in hundredths."""
    return changed(profile, {"gpu_memory_utilization": hundredths / UTILIZATION_STEPS})


def of_length(profile: Profile, length: int) -> Profile:
    """The same for requests of another length, in tokens."""
    return changed(profile, {"max_seq_length": length})


def smaller_rank(profile: Profile) -> Profile | None:
    """The next smaller rank that vLLM takes, for slots and adapters."""
    ranks = [rank for rank in VLLM_LORA_RANKS if rank < profile.max_lora_rank]
    if not ranks:
        return None
    adapters = profile.adapters
    if adapters is not None:
        adapters = changed(adapters, {"r": min(adapters.r, ranks[-1])})
    return changed(profile, {"max_lora_rank": ranks[-1], "adapters": adapters})


def mlp_only(profile: Profile, adapters: Adapters) -> Profile:
    """The same without adapters on q, k, v and o."""
    return changed(profile, {"adapters": changed(adapters, {"target_modules": MLP_ONLY})})
