"""The comparison of two loads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from loadcheck.comparing.difference import Difference, differences, in_unit
from loadcheck.comparing.steps import State, steps
from loadcheck.comparing.subject import Subject


@dataclass(frozen=True, slots=True)
class Change:
    """A difference in anything but a figure; None means not stated."""

    name: str
    a: Any
    b: Any

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "a": self.a, "b": self.b}


@dataclass(frozen=True, slots=True)
class Comparison:
    """What differs between two loads. Settings and versions are listed, but only figures and endings decide whether the loads are the same.

    Attributes:
        num_compared: the number of figures that both state.
    """

    a: Subject
    b: Subject
    settings: tuple[Change, ...]
    versions: tuple[Change, ...]
    machine: tuple[Change, ...]
    moved: tuple[Difference, ...]
    num_compared: int

    @property
    def ended_alike(self) -> bool:
        return None in (self.a.ending, self.b.ending) or self.a.ending == self.b.ending

    @property
    def of_a_kind(self) -> bool:
        """Whether both are trainings, or neither is."""
        return (self.a.training is None) == (self.b.training is None)

    @property
    def same(self) -> bool:
        """Whether no figure moved, at least one was compared, and both are of a kind and ended alike."""
        return not self.moved and self.of_a_kind and self.ended_alike and self.num_compared > 0

    @property
    def unexplained(self) -> tuple[Difference, ...]:
        return tuple(difference for difference in self.moved if not difference.explained)

    def to_json(self) -> dict[str, Any]:
        """Amounts are in bytes for memory, otherwise in the figure's own unit."""
        return {
            "a": self.a.name,
            "b": self.b.name,
            "same": self.same,
            "compared": self.num_compared,
            "ended": {"a": self.a.ending, "b": self.b.ending},
            "settings": [change.to_json() for change in self.settings],
            "versions": [change.to_json() for change in self.versions],
            "machine": [change.to_json() for change in self.machine],
            "moved": [_difference_json(difference) for difference in self.moved],
        }


def _difference_json(difference: Difference) -> dict[str, Any]:
    spec = difference.spec
    return {
        "figure": spec.name,
        "a": spec.to_edge(difference.a.value, difference.a.decimals),
        "b": spec.to_edge(difference.b.value, difference.b.decimals),
        "difference": in_unit(spec, difference.amount),
        "parts": [
            {
                "change": part.change,
                "difference": in_unit(spec, part.amount),
                "terms": {name: in_unit(spec, amount) for name, amount in part.terms.items()},
            }
            for part in difference.parts
        ],
        "rest": in_unit(spec, difference.rest),
        "explained": difference.explained,
        "why": difference.why,
    }


def compare(a: Subject, b: Subject) -> Comparison:
    """Everything that differs, with the changes that moved each figure."""
    both = (a.training is None) == (b.training is None)
    path = None
    if a.case is not None and b.case is not None:
        path = steps(State(a.case, a.training if both else None), State(b.case, b.training if both else None))
    model = () if a.model == b.model else (Change("model", a.model, b.model),)
    return Comparison(
        a=a,
        b=b,
        settings=(*model, *_changes(a.settings, b.settings)),
        versions=tuple(_changes(a.versions, b.versions)),
        machine=tuple(_changes(a.machine, b.machine)),
        moved=tuple(differences(a, b, path)),
        num_compared=len(a.readings.keys() & b.readings.keys()),
    )


def _changes(mine: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[Change]:
    """The values that both state, but differently."""
    for name in mine:
        if name in other and mine[name] != other[name]:
            yield Change(name, mine[name], other[name])
