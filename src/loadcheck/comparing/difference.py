"""A figure that moved between two loads, and by how much each change moved it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from loadcheck.comparing.steps import Predicted, Step
from loadcheck.comparing.subject import Subject
from loadcheck.figures import FigureSpec, Kind, Reading

Number = int | float
ROUNDING = "rounding of the log"


@dataclass(frozen=True, slots=True)
class Part:
    """By how much one change moved a figure, in the figure's own unit: in total, and by its terms.

    Attributes:
        moves: whether the change makes it a different load; a constant that either load measured itself does not.
    """

    change: str
    amount: Number
    terms: Mapping[str, Number]
    moves: bool = True


@dataclass(frozen=True, slots=True)
class Difference:
    """A figure that differs between two loads, in its own unit (bytes for memory).

    Attributes:
        parts: the predicted effect of each change.
        why: what the remainder is, or why it is not explained.
    """

    spec: FigureSpec
    a: Reading
    b: Reading
    parts: tuple[Part, ...]
    explained: bool
    why: str

    @property
    def amount(self) -> Number:
        return _number(self.b) - _number(self.a)

    @property
    def rest(self) -> Number:
        """The remainder that the parts do not explain."""
        return self.amount - sum(part.amount for part in self.parts)


def differences(a: Subject, b: Subject, path: tuple[Step, ...] | None) -> Iterator[Difference]:
    """Every number that both state, but differently; `path` is None if one of the two is not predicted."""
    for attribute, mine in a.readings.items():
        spec, other = mine.spec, b.readings.get(attribute)
        if other is None or _agree(mine, other):
            continue
        if path is None:
            note = a.note if a.case is None else b.note
            yield Difference(spec, mine, other, parts=(), explained=False, why=f"not predicted: {note}")
            continue
        parts = tuple(_parts(attribute, path))
        band = b.banded.get(attribute) or a.banded.get(attribute)
        off = [subject for subject in (a, b) if attribute not in subject.as_predicted]
        if not off and band and not any(part.moves for part in parts):
            continue  # the same within the physical band
        yield Difference(spec, mine, other, parts, all(subject.again for subject in off), _why(off, band))


def _why(off: list[Subject], band: str | None) -> str:
    """What the remainder is; `off` are the subjects whose figure is not as predicted."""
    if not off:
        return f"its band: {band}" if band else ROUNDING
    names = " and ".join(subject.name for subject in off)
    if all(subject.again for subject in off):
        return f"{names}: a second attempt in one process, which begins with what the first left"
    return f"not what the settings of {names} predict"


def _agree(a: Reading, b: Reading) -> bool:
    """Whether both are equal at the precision of the coarser one."""
    coarser, finer = (a, b) if a.tolerance >= b.tolerance else (b, a)
    return coarser.agrees(finer.value)


def _number(reading: Reading) -> Number:
    assert not isinstance(reading.value, str)
    return reading.value


def _parts(attribute: str, path: tuple[Step, ...]) -> Iterator[Part]:
    for step in path:
        before, after = step.before.figure(attribute), step.after.figure(attribute)
        if before is None or after is None or before == after:
            continue
        mine, other = _terms(attribute, step.before), _terms(attribute, step.after)
        moved = {name: other.get(name, 0) - mine.get(name, 0) for name in dict.fromkeys((*mine, *other))}
        least = 1 if attribute.endswith("_bytes") else 0  # each term is rounded to the byte separately
        terms = {name: amount for name, amount in moved.items() if abs(amount) > least}
        yield Part(step.change, after - before, terms, moves=not step.measured)


def _terms(attribute: str, predicted: Predicted) -> Mapping[str, Number]:
    """A predicted figure as terms that sum: for the peak and the weights those of the account, for the cache what the budget leaves."""
    if attribute in predicted.peaks:
        return predicted.peaks[attribute]
    account, figures, value = predicted.load.account, predicted.load.figures, predicted.figure(attribute) or 0
    if account is not None and attribute == "peak_device_bytes":
        return {term.name: term.num_bytes for term in account.peak.parts}
    if account is not None and attribute == "weights_bytes":
        (weights,) = (term for term in account.peak.parts if term.name == "weights")
        return {term.name: term.num_bytes for term in weights.parts}
    if attribute == "kv_cache_bytes" and figures.budget_bytes is not None:
        used = {name: -(getattr(figures, f"{name}_bytes") or 0) for name in ("weights", "activation_peak")}
        known = {"budget": figures.budget_bytes, **used}
        return {**known, "non_torch": value - sum(known.values())}
    return {attribute.removesuffix("_bytes"): value}


def in_unit(spec: FigureSpec, amount: Number) -> Number:
    """An amount for JSON: bytes for memory, otherwise in the figure's own unit, rounded as it is printed."""
    if spec.kind in (Kind.MEMORY, Kind.COUNT):
        return round(amount)
    return round(float(amount), spec.decimals or 0)
