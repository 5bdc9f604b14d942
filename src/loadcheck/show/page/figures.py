"""Figures and findings as a page shows them: failures first, and the checks behind each figure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from loadcheck.figures import specs_by_name
from loadcheck.logs.text import read_lines
from loadcheck.show.verdict import explain, figure_rows
from loadcheck.verdict import Evidence, Finding, Status, Verdict, causes

MAX_LINE_CHARS = 400


@dataclass(frozen=True, slots=True)
class ShownFinding:
    """One finding: its step and status, a sentence, and the line of the log that it is about (may be empty)."""

    step: str
    status: str
    text: str
    line: str


@dataclass(frozen=True, slots=True)
class Row:
    """One figure as text, its status ("fail", "refused", "ok", or empty if unchecked), and its findings.

    Attributes:
        unreached: whether it is only missing because the load ended earlier.
    """

    name: str
    predicted: str
    measured: str
    expected: str
    status: str
    told: tuple[ShownFinding, ...]
    unreached: bool = False

    @property
    def wrong(self) -> bool:
        return self.status in ("fail", "refused") and not self.unreached


def rows_of(evidence: Evidence, verdict: Verdict, more: Iterable[Sequence[str]] = ()) -> tuple[Row, ...]:
    """A row for each figure that the prediction, the log or the ranges state, and `more` rows."""
    shown = _shown(verdict.findings, evidence)
    by_figure: dict[str, list[ShownFinding]] = {}
    for finding, shown_finding in zip(verdict.findings, shown, strict=True):
        by_figure.setdefault(finding.figure, []).append(shown_finding)
    unreached = {finding.figure for finding in _unreached(verdict)}
    unreached -= {finding.figure for finding in verdict.failures() if not finding.missing}
    return tuple(
        Row(name, predicted, measured, expected, status.lower(), tuple(by_figure.get(name, ())), name in unreached)
        for name, predicted, measured, expected, status in (*figure_rows(evidence, verdict), *more)
    )


def _unreached(verdict: Verdict) -> tuple[Finding, ...]:
    """The figures that a load which did not finish did not print."""
    return tuple(finding for finding in verdict.failures() if finding.missing) if causes(verdict) else ()


def failures_of(verdict: Verdict, evidence: Evidence | None) -> tuple[ShownFinding, ...]:
    """Every failure. For a load that did not finish, the cause first, without the figures that it did not reach."""
    unreached, ends = _unreached(verdict), causes(verdict)
    rest = (finding for finding in verdict.failures() if finding not in unreached and finding not in ends)
    return _shown((*ends, *rest), evidence)


def others_of(verdict: Verdict, evidence: Evidence | None) -> tuple[ShownFinding, ...]:
    """Passed and skipped checks of versions, settings and the run."""
    figures = specs_by_name()
    kept = [finding for finding in verdict.findings if finding.status in (Status.OK, Status.SKIPPED) and finding.figure not in figures]  # fmt: skip
    return _shown(kept, evidence)


def _shown(findings: Iterable[Finding], evidence: Evidence | None) -> tuple[ShownFinding, ...]:
    findings = tuple(findings)
    lines = dict(_lines(findings, evidence))
    return tuple(
        ShownFinding(
            finding.check.value,
            finding.status.value,
            explain(finding),
            lines.get(finding.where.line, "") if finding.where else "",
        )
        for finding in findings
    )


def _lines(findings: Iterable[Finding], evidence: Evidence | None) -> Iterator[tuple[int | None, str]]:
    """Number and text of each line that a finding is about."""
    if evidence is None:
        return
    numbers = {
        finding.where.line for finding in findings if finding.where is not None and finding.where.line is not None
    }
    for number, text in (read_lines(evidence.log.path, numbers) if numbers else {}).items():
        yield number, text[:MAX_LINE_CHARS]
