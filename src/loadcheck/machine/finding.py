"""The findings of the checks of a machine, and their outcome."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import Enum
from functools import cache
from typing import Any

from loadcheck.errors import EXIT_FAIL, EXIT_MACHINE, EXIT_PASS
from loadcheck.specs.trouble import Trouble, load_troubles


class Level(Enum):
    """OK: as it should be. WARNING: the load will run, but perhaps not as expected. PROBLEM: it will fail."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The result of one check.

    Attributes:
        what: what was found.
        why: why it matters.
        remedy: how to fix it; empty if nothing is wrong.
        references: the issues, or the lines of the pinned packages, that it is known from.
        cannot: whether the machine itself lacks something that no setting can replace.
    """

    check: str
    level: Level
    what: str
    why: str = ""
    remedy: str = ""
    references: tuple[str, ...] = ()
    cannot: bool = False

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"level": self.level.value}


@dataclass(frozen=True, slots=True)
class Report:
    """All findings about this machine for one profile."""

    profile: str
    findings: tuple[Finding, ...]

    def without(self, check: str) -> Report:
        """The report without the findings of one check."""
        return Report(self.profile, tuple(finding for finding in self.findings if finding.check != check))

    @property
    def problems(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.level is Level.PROBLEM)

    @property
    def outcome(self) -> str:
        """fine, warnings, problems, or cannot (this machine lacks what the profile needs)."""
        if any(finding.cannot for finding in self.problems):
            return "cannot"
        if self.problems:
            return "problems"
        return "warnings" if any(finding.level is Level.WARNING for finding in self.findings) else "fine"

    @property
    def exit_code(self) -> int:
        return {"cannot": EXIT_MACHINE, "problems": EXIT_FAIL}.get(self.outcome, EXIT_PASS)

    def to_json(self) -> dict[str, Any]:
        return {
            "profile": self.profile,
            "outcome": self.outcome,
            "findings": [finding.to_json() for finding in self.findings],
        }


def ok(check: str, what: str, why: str = "") -> Finding:
    return Finding(check=check, level=Level.OK, what=what, why=why)


def warning(check: str, what: str, trouble_id: str, why: str = "", remedy: str = "") -> Finding:
    """A warning about a known trouble, with the trouble's own cause and remedy unless others are given."""
    return _known(Level.WARNING, check, what, trouble_id, why, remedy, cannot=False)


def problem(check: str, what: str, trouble_id: str, why: str = "", remedy: str = "", cannot: bool = False) -> Finding:
    """A problem that is a known trouble, with the trouble's own cause and remedy unless others are given."""
    return _known(Level.PROBLEM, check, what, trouble_id, why, remedy, cannot)


def _known(level: Level, check: str, what: str, trouble_id: str, why: str, remedy: str, cannot: bool) -> Finding:
    trouble = _trouble(trouble_id)
    return Finding(
        check=check,
        level=level,
        what=what,
        why=why or trouble.cause,
        remedy=remedy or trouble.remedy,
        references=trouble.references,
        cannot=cannot,
    )


@cache
def _trouble(trouble_id: str) -> Trouble:
    return next(trouble for trouble in load_troubles() if trouble.id == trouble_id)
