"""Compares figures with the ranges that this profile's golden runs had on this GPU."""

from __future__ import annotations

from collections.abc import Iterator

from loadcheck.figures import Reading, specs_by_name
from loadcheck.findings.evidence import Evidence
from loadcheck.findings.finding import Check, Finding, Status
from loadcheck.logs import Outcome
from loadcheck.logs.events import Device
from loadcheck.specs.expected import Expected, Range
from loadcheck.verdict.card import is_described_otherwise


def check_golden(evidence: Evidence) -> Iterator[Finding]:
    """Every figure of env/expected for this profile and GPU; a figure that is not in the log fails."""
    yield from _unknown_card(evidence)
    expected = None if is_described_otherwise(evidence) else evidence.expected
    if expected is None:
        if evidence.attempt.outcome is Outcome.COMPLETED:
            by = "shape and identities" if evidence.predicted is None else "shape, identities and prediction"
            yield Finding(figure="ranges", check=Check.GOLDEN, status=Status.SKIPPED,
                          why=f"no reference ranges for these settings on this card: judged by {by}")  # fmt: skip
        return
    elsewhere = _facts_of_another_host(evidence, expected)
    for name, allowed in expected.figures.items():
        if allowed.host not in elsewhere:
            yield _compared(evidence, name, allowed, expected)


def _compared(evidence: Evidence, name: str, allowed: Range, expected: Expected) -> Finding:
    """One figure in its range; a figure that is not in the log fails."""
    reading = evidence.attempt.reading(specs_by_name()[name].attribute)
    if reading is None:
        return Finding(figure=name, check=Check.GOLDEN, status=Status.FAIL, low=allowed.low, high=allowed.high,
                       predicted=allowed.exactly, why=f"expected ({allowed.why}), but not in the log",
                       remedy="keep the whole output of the load", where=evidence.where(None), missing=True)  # fmt: skip
    ok = within(reading, allowed)
    exactly = _number(allowed.exactly)
    remedy = f"find what moved it: the stack, the settings, or the card; expected is {show(allowed)}"
    return evidence.finding(
        reading,
        Check.GOLDEN,
        ok=ok,
        predicted=allowed.exactly,
        low=allowed.low if allowed.exactly is None else exactly,
        high=allowed.high if allowed.exactly is None else exactly,
        why=f"{allowed.why} (runs: {', '.join(run.id for run in expected.basis)})",
        remedy="" if ok else remedy,
    )


_MIN_OFF = 2
"""How many figures that follow from the same fact of the host must be off before the fact is taken to differ. 1 MiB more in use on a T4 moves its
utilization, its blocks and its concurrency; the other three are printed too coarsely to move before 16 MiB (106 to 122 MiB in use, by the formulas)."""


def _facts_of_another_host(evidence: Evidence, expected: Expected) -> set[str]:
    """The facts in which this host differs from that of the golden runs: several figures that follow from the fact are off.

    A single figure that is off was changed. A run of ours records the fact itself, and is predicted from it to the byte.
    """
    facts = {allowed.host for allowed in expected.figures.values() if allowed.host is not None}
    if evidence.attempt.last(Device) is not None:
        return set(facts)
    return {fact for fact in facts if _num_off(evidence, expected, fact) >= _MIN_OFF}


def _num_off(evidence: Evidence, expected: Expected, fact: str) -> int:
    follow = ((name, allowed) for name, allowed in expected.figures.items() if allowed.host == fact)
    read = ((evidence.attempt.reading(specs_by_name()[name].attribute), allowed) for name, allowed in follow)
    return sum(reading is not None and not within(reading, allowed) for reading, allowed in read)


def _unknown_card(evidence: Evidence) -> Iterator[Finding]:
    """A note if the log's card is not in env/gpus.toml: there are no ranges for it, and wider bands apply."""
    reading = evidence.attempt.reading("gpu_name")
    if reading is not None and evidence.gpu is None:
        yield Finding(
            figure="gpu_name", check=Check.GOLDEN, status=Status.SKIPPED, where=evidence.where(reading.line),
            why=f"{reading.value} is not in env/gpus.toml: there are no expected ranges for it, and what its driver takes is an estimate",
        )  # fmt: skip


def within(reading: Reading, allowed: Range) -> bool:
    """Whether a reading is in the range, at the precision that it was printed with."""
    edge = reading.spec.to_edge(reading.value, reading.decimals)
    if allowed.exactly is not None:
        if isinstance(allowed.exactly, str) or isinstance(edge, str):
            return edge == allowed.exactly
        # what our own engine reports to the byte is compared at the precision of the log's other lines
        return edge == allowed.exactly or (
            reading.decimals is not None and reading.agrees(reading.spec.from_edge(allowed.exactly))
        )
    assert allowed.low is not None and allowed.high is not None and not isinstance(edge, str)
    return allowed.low <= edge <= allowed.high


def show(allowed: Range) -> str:
    """A range for people to read."""
    return str(allowed.exactly) if allowed.exactly is not None else f"{allowed.low} to {allowed.high}"


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None
