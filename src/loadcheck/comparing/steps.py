"""Walks from one load to another, one change at a time, and predicts after each, so that each change's effect is known to the byte."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from loadcheck.comparing.training import PEAKS, peak_terms, setting_changes
from loadcheck.errors import BadInput
from loadcheck.predict import Case, Prediction
from loadcheck.specs.files import flat, to_data
from loadcheck.specs.profile import Profile
from loadcheck.specs.settings import settings_of
from loadcheck.specs.training import TrainSettings
from loadcheck.stacks import predict, stack_of
from loadcheck.units import show_bytes

Turn = tuple[str, Callable[[Case], Case]]
"""A change in words, and the case after it."""


@dataclass(frozen=True, slots=True)
class State:
    """A load, and the training after it if there is one."""

    case: Case
    training: TrainSettings | None = None


@dataclass(frozen=True, slots=True)
class Predicted:
    """The prediction of a state; `peaks` are a training's, as terms that sum."""

    load: Prediction
    peaks: Mapping[str, Mapping[str, int]]

    @classmethod
    def of(cls, state: State) -> Predicted:
        return cls(predict(state.case), {} if state.training is None else peak_terms(state.case, state.training))

    def figure(self, attribute: str) -> int | float | None:
        """A number by its attribute; None if it is not predicted."""
        if attribute in PEAKS:
            return sum(self.peaks[attribute].values()) if attribute in self.peaks else None
        value: int | float | None = getattr(self.load.figures, attribute)
        return value


@dataclass(frozen=True, slots=True)
class Step:
    """One change between two loads, with the predictions before and after it.

    Attributes:
        measured: whether the change is not a setting but a constant that either load measured itself, such as non_torch.
    """

    change: str
    before: Predicted
    after: Predicted
    measured: bool = False


NON_TORCH = "non_torch as measured, a constant of card and driver"
ELSE = "what else differs"


def steps(a: State, b: State) -> tuple[Step, ...]:
    """The changes from `a` to `b` in order: model, settings, card, memory in use on it, RAM, non_torch, and the training's settings.

    Changes that move nothing are left out. If two changes move the same figure, their shares depend on the order; their sum is always the
    whole difference.
    """
    found: list[Step] = []
    before = Predicted.of(a)
    for change, state in (*_states(a, b), (ELSE, b)):
        after = Predicted.of(state)
        if after != before:
            found.append(Step(change, before, after, measured=change == NON_TORCH))
        before = after
    return tuple(found)


def _states(a: State, b: State) -> Iterator[tuple[str, State]]:
    for change, case in _walk(a.case, list(_turns(a.case, b.case))):
        yield change, State(case, a.training)
    if a.training is not None and b.training is not None:
        for change, settings in setting_changes(a.training, b.training):
            yield change, State(b.case, settings)


def _walk(case: Case, turns: list[Turn]) -> Iterator[tuple[str, Case]]:
    """The case after each change. A change that is not valid yet, because it depends on a later one, is made after that."""
    later: list[Turn] = []
    for change, turn in turns:
        try:
            case = turn(case)
        except BadInput:
            later.append((change, turn))
        else:
            yield change, case
    if later and len(later) < len(turns):
        yield from _walk(case, later)


def _turns(a: Case, b: Case) -> Iterator[Turn]:
    if stack_of(a.profile) is not stack_of(b.profile):
        yield f"stack {stack_of(a.profile).name} → {stack_of(b.profile).name}", lambda _: b
        return
    if a.config != b.config:
        yield f"model {_model(a)} → {_model(b)}", lambda case: replace(
            case.changed({"model": b.profile.model, "load_in_4bit": b.profile.load_in_4bit}),
            config=b.config, model_name=b.model_name,
        )  # fmt: skip
    yield from _settings(a, b)
    if a.card is not None and b.card is not None:
        yield from _machine(a, b)


def _model(case: Case) -> str:
    return f"{case.model_name or case.profile.model} {case.config.quantization}"


def _settings(a: Case, b: Case) -> Iterator[Turn]:
    """Each setting that moves memory and differs; adapters as a whole if only one of the two has any."""
    mine, other = flat(a.profile), flat(b.profile)
    if (a.profile.adapters is None) != (b.profile.adapters is None):
        yield f"adapters {_on(a)} → {_on(b)}", lambda case: case.changed({"adapters": to_data(b.profile)["adapters"]})
    for flag in settings_of(Profile):
        key = flag.key
        if flag.setting.moves_memory and key in mine and key in other and mine[key] != other[key]:
            change = f"{key} {_shown(mine[key])} → {_shown(other[key])}"
            yield change, lambda case, key=key: case.changed({key: other[key]})  # type: ignore[misc]


def _on(case: Case) -> str:
    return "none" if case.profile.adapters is None else f"of rank {case.profile.adapters.r}"


def _shown(value: object) -> str:
    return "+".join(map(str, value)) if isinstance(value, list) else str(value)


def _swap(case: Case) -> str:
    swap_bytes = predict(case).figures.swap_bytes
    return "an unknown amount" if swap_bytes is None else show_bytes(swap_bytes)


def _machine(a: Case, b: Case) -> Iterator[Turn]:
    """The card with as much in use as before, then the memory in use, the RAM, and last what vLLM measured on the card."""
    mine, other = a.gpu, b.gpu
    used, own = mine.total_bytes - mine.free_bytes, mine.non_torch_bytes
    if replace(mine, free_bytes=0, non_torch_bytes=None) != replace(other, free_bytes=0, non_torch_bytes=None):
        kind = replace(other, free_bytes=other.total_bytes - used, non_torch_bytes=own)
        yield f"card {mine.name} → {other.name}", lambda case: replace(case, card=kind)
    used_there = other.total_bytes - other.free_bytes
    if used != used_there:
        change = f"in use before the load {show_bytes(used)} → {show_bytes(used_there)}"
        yield change, lambda case: replace(case, card=replace(other, non_torch_bytes=own))
    if a.ram_available_bytes != b.ram_available_bytes:
        # by the swap space, as logs and predictions state no RAM: theirs is only an amount that gives their swap space
        change = f"RAM available, enough for {_swap(a)} → {_swap(b)} of swap space"
        yield change, lambda case: replace(case, ram_available_bytes=b.ram_available_bytes)
    yield NON_TORCH, lambda case: replace(case, card=other)
