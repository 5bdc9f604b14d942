"""Compares a figure of a log with what an equation gives for it from other figures of the log."""

from __future__ import annotations

from collections.abc import Iterator

from loadcheck.figures import Kind
from loadcheck.findings.evidence import Evidence
from loadcheck.findings.finding import Check, Finding
from loadcheck.findings.interval import Interval
from loadcheck.units import from_gib, to_gib

# The four parts and the budget are each printed to two decimals, so their sum may be off by a little more than one hundredth.
KV_SLACK_BYTES = from_gib(0.02)


EDITED = "the log was edited, or mixes two loads; give the raw output of one"


def compare(
    evidence: Evidence, attribute: str, computed: Interval, formula: str, remedy: str = EDITED
) -> Iterator[Finding]:
    """Whether the reading of `attribute` overlaps the interval that an identity gives for it."""
    reading = evidence.attempt.reading(attribute)
    if reading is None:
        return
    to_edge = to_gib if reading.spec.kind is Kind.MEMORY else float
    yield evidence.finding(
        reading,
        Check.IDENTITY,
        ok=Interval.of(reading).meets(computed),
        low=round(to_edge(computed.low), 4),
        high=round(to_edge(computed.high), 4),
        why=formula,
        remedy=remedy,
    )


def intervals_of(evidence: Evidence, *attributes: str) -> list[Interval] | None:
    """The readings of these figures as intervals; None if the log lacks one of them."""
    readings = [evidence.attempt.reading(attribute) for attribute in attributes]
    found = [Interval.of(reading) for reading in readings if reading is not None]
    return found if len(found) == len(attributes) else None


def left_over(budget: Interval, *parts: Interval) -> Interval:
    """The budget minus the parts, computed from the middles of their intervals, ± KV_SLACK_BYTES."""
    left = budget.middle - sum(part.middle for part in parts)
    return Interval(left, left).widened(KV_SLACK_BYTES)
