"""A finding: one check of one figure, with what was expected, what was measured, and what to do."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

from loadcheck.figures import Value


class Status(Enum):
    """How one check ended. REFUSED: the two must not be compared; SKIPPED: there was nothing to compare with."""

    OK = "ok"
    FAIL = "fail"
    REFUSED = "refused"
    SKIPPED = "skipped"


class Check(Enum):
    """The steps of a judgement, in order."""

    SHAPE = "shape"
    STACK = "stack"
    IDENTITY = "identity"
    MODEL = "model"
    GOLDEN = "golden"
    RUN = "run"


@dataclass(frozen=True, slots=True)
class Place:
    """A line of a log, counted from 1; or the log as a whole."""

    file: str
    line: int | None = None

    def __str__(self) -> str:
        return self.file if self.line is None else f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One check of one figure. Numbers are in `unit`, as the log prints them (memory in GiB).

    Attributes:
        figure: the figure's JSON name, or what else was checked ("attempts", "error").
        low, high: the range that `measured` had to be in, both ends included.
        where: where it was measured; None for what is in no log.
        missing: whether it is not in the log at all; in a load that did not finish this is not a trouble of its own.
        trouble: the id in env/troubles.toml of the known trouble; "unknown" or "refused" for any other error (verdict/diagnosis.py).
    """

    figure: str
    check: Check
    status: Status
    predicted: Value | None = None
    measured: Value | None = None
    low: float | None = None
    high: float | None = None
    unit: str = ""
    why: str = ""
    remedy: str = ""
    where: Place | None = None
    missing: bool = False
    trouble: str | None = None

    def to_json(self) -> dict[str, Any]:
        """`where` is file:line or empty, `line` the line number alone; a trouble's `measured` is its id."""
        converted = {
            "check": self.check.value,
            "status": self.status.value,
            "measured": self.trouble if self.measured is None else self.measured,
            "where": "" if self.where is None else str(self.where),
            "line": None if self.where is None else self.where.line,
        }
        return asdict(self) | converted


NOT_IN_LOG = "not in log"
"""How an unknown figure is shown. It proves nothing, so what a run of ours must show fails without it."""
DAMAGED = "see load.log: one of its events is damaged"


def run_finding(figure: str, ok: bool | None, why: str, remedy: str) -> Finding:
    """A finding about what a run of ours must show; the remedy is dropped if it did.

    Args:
        ok: None if the log does not say: this fails for another reason than a figure that is wrong.
    """
    status = Status.OK if ok else Status.FAIL
    if ok is None:
        why, remedy = why if NOT_IN_LOG in why else f"{why}: {NOT_IN_LOG}", DAMAGED
    return Finding(figure=figure, check=Check.RUN, status=status, why=why, remedy="" if ok else remedy)


def run_failure(figure: str, why: str, remedy: str) -> Finding:
    """The failure of what a run of ours must show."""
    return run_finding(figure, ok=False, why=why, remedy=remedy)


@dataclass(frozen=True, slots=True)
class Verdict:
    """All findings of a judgement."""

    findings: tuple[Finding, ...]

    @property
    def status(self) -> str:
        """pass, fail, refused or skipped. One failure fails; without a single check that held it is no pass."""
        found = {finding.status for finding in self.findings}
        for status in (Status.FAIL, Status.REFUSED):
            if status in found:
                return str(status.value)
        return "pass" if Status.OK in found else Status.SKIPPED.value

    @property
    def passed(self) -> bool:
        return self.status == "pass"

    def failures(self) -> tuple[Finding, ...]:
        """The findings that keep this from being a pass."""
        return tuple(finding for finding in self.findings if finding.status in (Status.FAIL, Status.REFUSED))

    def to_json(self) -> dict[str, Any]:
        return {"verdict": self.status, "findings": [finding.to_json() for finding in self.findings]}
