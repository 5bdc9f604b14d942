"""Makes a plan from FLEET.toml: predicts each card, and refuses those that cannot hold the model before they are rented."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any, Literal

from loadcheck.device import ram_available_bytes
from loadcheck.errors import EXIT_FAIL, EXIT_PASS, BadInput, Problem
from loadcheck.fleet.plan import CPU, HERE, FleetPlan, PlannedCard, PlannedNode
from loadcheck.fleet.spec import FleetSpec, Group
from loadcheck.plan import make_plan
from loadcheck.predict import Case, Prediction
from loadcheck.predict.card import card_from_table
from loadcheck.preparing import refuse_bad_input
from loadcheck.runs.origin import lock_sha256
from loadcheck.specs.files import differences, to_data
from loadcheck.specs.gpu import gpu_named, known_bytes
from loadcheck.specs.profile import Profile, load_profile, profile_names
from loadcheck.specs.settings import settings_of
from loadcheck.stacks import case_of, predict
from loadcheck.units import GIB, from_gib

ASSUMED_RAM_BYTES = 64 * GIB
"""For a node that is not this machine, if FLEET.toml does not state its RAM."""


@dataclass(frozen=True, slots=True)
class Ram:
    """The RAM available on a node. On a GPU it affects only the swap space and its CPU blocks, which a node's verdict predicts from its own RAM."""

    num_bytes: int
    source: Literal["FLEET.toml", "this machine", "assumed"]

    @classmethod
    def of(cls, spec: FleetSpec, group: Group) -> Ram:
        if group.ram_available_gib is not None:
            return cls(from_gib(group.ram_available_gib), "FLEET.toml")
        return cls(ram_available_bytes(), "this machine") if spec.engine in HERE else cls(ASSUMED_RAM_BYTES, "assumed")


@dataclass(frozen=True, slots=True)
class PlannedGroup:
    """Nodes of one card with their prediction; `refused` is the reason why they are not planned, empty if they are."""

    group: Group
    card: str
    ram: Ram
    prediction: Prediction | None
    refused: str = ""

    def to_json(self) -> dict[str, Any]:
        return {
            "card": self.card,
            "nodes": len(self.group.hosts) or self.group.count,
            "price_per_hour": self.group.price_per_hour,
            "ram_available_bytes": self.ram.num_bytes,
            "ram_source": self.ram.source,
            "fits": self.prediction is not None and self.prediction.fits,
            "refused": self.refused or None,
            "predicted": None if self.prediction is None else self.prediction.figures.to_json(),
        }


@dataclass(frozen=True, slots=True)
class Planned:
    """The plan (None if every group is refused), and the groups that it was made from."""

    plan: FleetPlan | None
    groups: tuple[PlannedGroup, ...]

    @property
    def refused(self) -> tuple[PlannedGroup, ...]:
        return tuple(group for group in self.groups if group.refused)

    @property
    def exit_code(self) -> int:
        """1 if any requested card is refused."""
        return EXIT_FAIL if self.refused else EXIT_PASS

    def to_json(self) -> dict[str, Any]:
        plan = self.plan
        return {
            "fleet": None if plan is None else plan.name,
            "profile": None if plan is None else plan.profile.name,
            "engine": None if plan is None else plan.engine,
            "nodes": [] if plan is None else [to_data(node) for node in plan.nodes],
            "cards": [group.to_json() for group in self.groups],
        }


def plan_fleet(spec: FleetSpec, now: datetime | None = None) -> Planned:
    """Predict each card, and plan those that hold the model. BadInput lists all unknown names at once."""
    profile = _profile(spec)
    refuse_bad_input(make_plan(profile))
    groups = tuple(_groups(spec, profile))
    kept = [group for group in groups if not group.refused]
    if not kept:
        return Planned(None, groups)
    plan = FleetPlan(
        name=spec.name, engine=spec.engine, created_at=now or datetime.now(timezone.utc), until=spec.until, image=spec.image,
        lock_sha256=lock_sha256(), profile=profile, arguments=_arguments(profile, spec.profile),
        cards=tuple(_cards(kept)), nodes=tuple(_nodes(kept)), results=spec.results, minutes=spec.minutes, retries=spec.retries,
        options=to_data(getattr(spec, spec.engine)),
    )  # fmt: skip
    return Planned(plan, groups)


def _profile(spec: FleetSpec) -> Profile:
    """The profile, by name only, as files of this machine are not on the nodes."""
    if spec.profile not in profile_names():
        known = ", ".join(profile_names())
        raise BadInput(Problem("FLEET.toml", f"there is no profile {spec.profile!r}", f"known: {known}", "profile"))
    return load_profile(spec.profile, spec.settings)


def _arguments(profile: Profile, name: str) -> tuple[str, ...]:
    """The arguments of `loadcheck load` on a node: the profile's name, and a flag for each key that differs from it."""
    found = differences(load_profile(name), profile)
    differ = [flag.set_to(found[flag.key][1]) for flag in settings_of(Profile) if flag.key in found]
    return (name, *(word for flag in differ for word in shlex.split(flag)))


def _groups(spec: FleetSpec, profile: Profile) -> Iterator[PlannedGroup]:
    problems: list[Problem] = []
    found: list[PlannedGroup] = []
    for number, group in enumerate(spec.nodes):
        try:
            found.append(_group(spec, profile, group))
        except BadInput as error:
            problems += [
                replace(problem, where="FLEET.toml", key=f"nodes[{number}].card") for problem in error.problems
            ]
    if problems:
        raise BadInput(problems)
    yield from found


def _group(spec: FleetSpec, profile: Profile, group: Group) -> PlannedGroup:
    """Predict a group; BadInput for an unknown card, and for a CPU where a GPU is needed or vice versa."""
    on_cpu = group.card.lower() == CPU
    if on_cpu != profile.on_cpu:
        needs = "no card: write cpu" if profile.on_cpu else "a GPU: name its card"
        raise BadInput(Problem("FLEET.toml", f"is {group.card}", f"profile {profile.name} runs on {needs}"))
    key, refused = (CPU, None) if on_cpu else _known(group.card)
    ram = Ram.of(spec, group)
    if refused is not None:
        return PlannedGroup(group, key, ram, None, refused)
    prediction = predict(_case(profile, key, ram))
    return PlannedGroup(group, key, ram, prediction, _why_refused(spec, group, prediction))


def _known(card: str) -> tuple[str, str | None]:
    """A card's key in env/gpus.toml, and why this stack cannot use it; BadInput for a card that is unknown or whose memory is unknown."""
    key, gpu = gpu_named(card)
    if gpu.refused is None and None in (known_bytes(gpu.total_bytes), known_bytes(gpu.used_before_bytes)):
        what = f"the free memory of {key} is not known, so nothing can be predicted for it"
        raise BadInput(Problem("FLEET.toml", what, "use another card; see loadcheck list cards"))
    return key, gpu.refused


def _case(profile: Profile, card: str, ram: Ram) -> Case:
    return case_of(profile, card_from_table(card) if profile.has_budget else None, ram.num_bytes)


def _why_refused(spec: FleetSpec, group: Group, prediction: Prediction) -> str:
    price, cap = group.price_per_hour, spec.price_cap_per_hour
    if not prediction.fits:
        return prediction.obstacles[0].what if prediction.obstacles else "it does not fit"
    if cap is not None and price is None:
        return f"its price is not stated, and no card may cost more than {cap:g} an hour"
    if cap is not None and price is not None and price > cap:
        return f"it costs {price:g} an hour, and no card may cost more than {cap:g}"
    return ""


def _cards(groups: list[PlannedGroup]) -> Iterator[PlannedCard]:
    """Each card once, at its lowest price."""
    for card in dict.fromkeys(planned.card for planned in groups):
        of_it = [planned for planned in groups if planned.card == card]
        prices = [planned.group.price_per_hour for planned in of_it if planned.group.price_per_hour is not None]
        prediction = of_it[0].prediction
        predicted = {} if prediction is None else prediction.figures.to_json()
        yield PlannedCard(card=card, price_per_hour=min(prices, default=None), predicted=predicted)


def _nodes(groups: list[PlannedGroup]) -> Iterator[PlannedNode]:
    """The nodes, named by card and number, or by card and host; further groups of a card are numbered."""
    seen: dict[str, int] = {}
    for planned in groups:
        base = planned.card.lower()
        seen[base] = seen.get(base, 0) + 1
        unit = base if seen[base] == 1 else f"{base}-{seen[base]}"
        price = planned.group.price_per_hour
        for host in planned.group.hosts:
            own = f"{unit}-{host}"
            yield PlannedNode(node=f"{own}-0", card=planned.card, unit=own, host=host, price_per_hour=price)
        if not planned.group.hosts:
            for number in range(planned.group.count):
                yield PlannedNode(node=f"{unit}-{number}", card=planned.card, unit=unit, price_per_hour=price)
