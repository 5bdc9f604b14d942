"""Tallies the figures of a fleet by card: the value that most nodes print, and the deviations. Its size grows with the number of distinct values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

from loadcheck.fleet.seen import Seen

NAMED_NODES = 5
"""How many of the nodes with the same value are named."""
MAX_VALUES = 200
"""Distinct values kept per figure and card; further ones are only counted."""


@dataclass(slots=True)
class Value:
    """How many nodes print a value, the first few nodes, and what was predicted for the first."""

    count: int = 0
    nodes: list[str] = field(default_factory=list)
    predicted: str | None = None


@dataclass(frozen=True, slots=True)
class Deviation:
    """A value that differs from the usual one of its card. `predicted` is what was predicted for that node from its own free memory."""

    card: str
    figure: str
    measured: str
    usual: str
    predicted: str | None
    count: int
    nodes: tuple[str, ...]

    @property
    def digit(self) -> str:
        return differing_digit(self.measured, self.usual)

    def to_json(self) -> dict[str, Any]:
        names = ("card", "figure", "measured", "usual", "predicted", "count", "digit")
        return {name: getattr(self, name) for name in names} | {"nodes": list(self.nodes)}


@dataclass(slots=True)
class Tally:
    """The values of each figure on each card, in order of arrival."""

    values: dict[tuple[str, str], dict[str, Value]] = field(default_factory=dict)
    left_out: int = 0

    def add(self, seen: Seen) -> None:
        for figure in seen.figures:
            values = self.values.setdefault((seen.card or "not in log", figure.name), {})
            if figure.measured not in values and len(values) == MAX_VALUES:
                self.left_out += 1
                continue
            value = values.setdefault(figure.measured, Value(predicted=figure.predicted))
            value.count += 1
            if len(value.nodes) < NAMED_NODES:
                value.nodes.append(seen.node)

    def usual(self) -> Iterator[tuple[str, str, str, Value]]:
        """Yield card, figure, and the value that most nodes print; the first one in a tie."""
        for (card, figure), values in sorted(self.values.items(), key=lambda item: item[0][0]):
            measured, value = max(values.items(), key=lambda item: item[1].count)
            yield card, figure, measured, value

    def deviations(self) -> Iterator[Deviation]:
        for card, figure, usual, _ in self.usual():
            for measured, value in self.values[card, figure].items():
                if measured != usual:
                    nodes = tuple(value.nodes)
                    yield Deviation(card, figure, measured, usual, value.predicted, value.count, nodes)


def differing_digit(measured: str, usual: str) -> str:
    """Where two printed numbers begin to differ, such as "the 3rd decimal"; empty for words, and for numbers of different length."""
    whole, _, decimals = measured.replace(",", "").partition(".")
    usual_whole, _, usual_decimals = usual.replace(",", "").partition(".")
    if not (whole + decimals + usual_whole + usual_decimals).isdecimal() or len(whole) != len(usual_whole):
        return ""
    for name, a, b in (("digit", whole, usual_whole), ("decimal", decimals, usual_decimals)):
        for number, (mine, other) in enumerate(zip_longest(a, b), 1):
            if mine != other:
                return f"the {number}{_ENDINGS.get(number, 'th')} {name}"
    return ""


_ENDINGS = {1: "st", 2: "nd", 3: "rd"}
