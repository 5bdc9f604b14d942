"""The last step: the ranges that this profile's figures had on this GPU."""

from __future__ import annotations

from collections.abc import Iterator

from loadcheck.figures import Reading, specs_by_name
from loadcheck.logs import Outcome
from loadcheck.specs.expected import Range
from loadcheck.verdict.evidence import Evidence
from loadcheck.verdict.finding import Check, Finding, Status


def check_golden(evidence: Evidence) -> Iterator[Finding]:
    """Every figure of env/expected for this profile and GPU; a figure that the log does not say fails."""
    expected = evidence.expected
    if expected is None:
        if evidence.attempt.outcome is Outcome.COMPLETED:
            by = "shape and identities" if evidence.predicted is None else "shape, identities and prediction"
            yield Finding(figure="ranges", check=Check.GOLDEN, status=Status.SKIPPED,
                          why=f"no reference ranges for these settings on this card: judged by {by}")  # fmt: skip
        return
    basis = ", ".join(run.id for run in expected.basis)
    for name, allowed in expected.figures.items():
        reading = evidence.attempt.reading(specs_by_name()[name].attribute)
        if reading is None:
            yield Finding(figure=name, check=Check.GOLDEN, status=Status.FAIL, low=allowed.low, high=allowed.high,
                          predicted=allowed.exactly, why=f"expected ({allowed.why}), but not in the log",
                          remedy="keep the whole output of the load", where=evidence.where(None), missing=True)  # fmt: skip
            continue
        ok = within(reading, allowed)
        yield evidence.finding(
            reading,
            Check.GOLDEN,
            ok,
            predicted=allowed.exactly,
            low=allowed.low if allowed.exactly is None else _number(allowed.exactly),
            high=allowed.high if allowed.exactly is None else _number(allowed.exactly),
            why=f"{allowed.why} (runs: {basis})",
            remedy=""
            if ok
            else f"find what moved it: the stack, the settings, or the card; expected is {show(allowed)}",
        )


def within(reading: Reading, allowed: Range) -> bool:
    """Whether what was read lies in the range, at the precision it was printed with."""
    edge = reading.spec.to_edge(reading.value, reading.decimals)
    if allowed.exactly is not None:
        if isinstance(allowed.exactly, str) or isinstance(edge, str):
            return edge == allowed.exactly
        # what our own engine says to the byte is compared as the log would print it
        return edge == allowed.exactly or (
            reading.decimals is not None and reading.agrees(reading.spec.from_edge(allowed.exactly))
        )
    assert allowed.low is not None and allowed.high is not None and not isinstance(edge, str)
    return allowed.low <= edge <= allowed.high


def show(allowed: Range) -> str:
    """A range for a person."""
    return str(allowed.exactly) if allowed.exactly is not None else f"{allowed.low} to {allowed.high}"


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None
