"""Checks the identities: what must hold between the figures of any log, whatever the model, the GPU and the settings.

Each identity is checked on the printed numbers as intervals, so it fails exactly when no true values could have been printed
that way. Identities catch a wrong model name and an edited log. Each stack defines its own.
"""

from __future__ import annotations

from collections.abc import Iterator

from loadcheck.figures import Kind, Reading
from loadcheck.findings.equation import EDITED
from loadcheck.findings.evidence import Evidence
from loadcheck.findings.finding import Check, Finding, Status
from loadcheck.findings.interval import Interval


def check_identities(evidence: Evidence) -> Iterator[Finding]:
    """Every identity whose figures are all in the log."""
    yield from _agreement(evidence)
    for identity in evidence.stack.identities:
        yield from identity(evidence)


def _agreement(evidence: Evidence) -> Iterator[Finding]:
    """A figure that several lines state must be the same in all of them, to the precision of each."""
    restated = evidence.stack.restated_figures(evidence.attempt)
    by_attribute: dict[str, list[Reading]] = {}
    for reading in evidence.attempt.readings:
        by_attribute.setdefault(reading.attribute, []).append(reading)
    for attribute, readings in by_attribute.items():
        if attribute in restated:
            continue
        clash = _clash(readings)
        if clash:
            first, second = clash
            why = f"line {first.line} says {first.show()}, line {second.line} says {second.show()}"
            yield evidence.finding(second, Check.IDENTITY, ok=False, why=why, remedy=EDITED)
        elif len(readings) > 1:
            yield evidence.finding(readings[0], Check.IDENTITY, ok=True, why=f"{len(readings)} lines say the same")


def _clash(readings: list[Reading]) -> tuple[Reading, Reading] | None:
    """Two readings that cannot both be true, the earlier line first; None if all can.

    All intervals overlap pairwise exactly if the highest of their low ends is not above the lowest of their high ends.
    """
    if readings[0].spec.kind is Kind.TEXT:
        other = next((reading for reading in readings if not _same(readings[0], reading)), None)
        return None if other is None else (readings[0], other)
    highest = max(readings, key=lambda reading: Interval.of(reading).low)
    lowest = min(readings, key=lambda reading: Interval.of(reading).high)
    if _same(highest, lowest):
        return None
    return (highest, lowest) if highest.line <= lowest.line else (lowest, highest)


def _same(first: Reading, second: Reading) -> bool:
    if first.spec.kind is Kind.TEXT:
        return _base(str(first.value)) == _base(str(second.value))
    return Interval.of(first).meets(Interval.of(second))


def _base(text: str) -> str:
    """A model's name without its owner, in lower case: lines may differ in both."""
    return text.rstrip("/").rsplit("/", 1)[-1].lower()


def skipped(check: Check, why: str) -> Finding:
    """The finding of a step that was skipped."""
    return Finding(figure=check.value, check=check, status=Status.SKIPPED, why=why)
