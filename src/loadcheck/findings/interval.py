"""Interval arithmetic on printed numbers: "5.35" stands for any number from 5.345 to 5.355."""

from __future__ import annotations

from dataclasses import dataclass

from loadcheck.figures import Reading


@dataclass(frozen=True, slots=True)
class Interval:
    """The numbers from low to high, both included."""

    low: float
    high: float

    @classmethod
    def of(cls, reading: Reading) -> Interval:
        """The interval that a numeric reading stands for, in the figure's own unit."""
        assert not isinstance(reading.value, str)
        return cls(reading.value - reading.tolerance, reading.value + reading.tolerance)

    @property
    def middle(self) -> float:
        return (self.low + self.high) / 2

    def __add__(self, other: Interval) -> Interval:
        return Interval(self.low + other.low, self.high + other.high)

    def __sub__(self, other: Interval) -> Interval:
        return Interval(self.low - other.high, self.high - other.low)

    def __mul__(self, other: Interval) -> Interval:
        products = [a * b for a in (self.low, self.high) for b in (other.low, other.high)]
        return Interval(min(products), max(products))

    def scaled(self, factor: float) -> Interval:
        return self * Interval(factor, factor)

    def widened(self, by: float) -> Interval:
        return Interval(self.low - by, self.high + by)

    def meets(self, other: Interval) -> bool:
        """Whether the two overlap, with a billionth of slack for floating point."""
        slack = 1e-9 * max(1.0, abs(self.high), abs(other.high))
        return self.low <= other.high + slack and other.low <= self.high + slack
