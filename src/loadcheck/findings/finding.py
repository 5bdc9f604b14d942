"""A finding: one check of one figure, with what was expected, what was measured, and what to do."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

from loadcheck.figures import Value


class Status(Enum):
    """How one check ended. REFUSED: these two are not to be compared; SKIPPED: there was nothing to compare with."""

    OK = "ok"
    FAIL = "fail"
    REFUSED = "refused"
    SKIPPED = "skipped"


class Check(Enum):
    """The steps of a judgement, in their order."""

    SHAPE = "shape"
    STACK = "stack"
    IDENTITY = "identity"
    MODEL = "model"
    GOLDEN = "golden"
    RUN = "run"


@dataclass(frozen=True, slots=True)
class Place:
    """A line of a log, from 1; or the log as a whole."""

    file: str
    line: int | None = None

    def __str__(self) -> str:
        return self.file if self.line is None else f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One check of one figure. Numbers are in `unit`, as the log prints them (memory in GiB).

    Attributes:
        figure: the figure's JSON name, or what else was looked at ("attempts", "error").
        low, high: the range that `measured` had to lie in, both included.
        where: the place of what was measured; None for what no log says.
        trouble: the known trouble that it names, by its id in env/troubles.toml; "unknown" and "refused" for an error that is none.
        missing: whether the log does not say it at all; of a load that did not finish that is no trouble of its own.
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
        """`where` is file:line or empty, and `line` the line alone; `measured` of a trouble is its name."""
        said = {
            "check": self.check.value,
            "status": self.status.value,
            "measured": self.trouble if self.measured is None else self.measured,
            "where": "" if self.where is None else str(self.where),
            "line": None if self.where is None else self.where.line,
        }
        return asdict(self) | said


def held(figure: str, ok: bool, why: str, remedy: str) -> Finding:
    """What a run had to show: it did, or here is what to do."""
    status = Status.OK if ok else Status.FAIL
    return Finding(figure=figure, check=Check.RUN, status=status, why=why, remedy="" if ok else remedy)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Every finding of a judgement, and what they come to."""

    findings: tuple[Finding, ...]

    @property
    def status(self) -> str:
        """pass, fail, refused or skipped. One failure fails; nothing that was compared and held is no pass."""
        found = {finding.status for finding in self.findings}
        for status in (Status.FAIL, Status.REFUSED):
            if status in found:
                return str(status.value)
        return "pass" if Status.OK in found else Status.SKIPPED.value

    @property
    def passed(self) -> bool:
        return self.status == "pass"

    def failures(self) -> tuple[Finding, ...]:
        """What keeps this from being a pass."""
        return tuple(finding for finding in self.findings if finding.status in (Status.FAIL, Status.REFUSED))

    def to_json(self) -> dict[str, Any]:
        return {"verdict": self.status, "findings": [finding.to_json() for finding in self.findings]}
