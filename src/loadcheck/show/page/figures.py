"""Figures and findings as a page shows them: what failed first, and behind each figure what was checked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from loadcheck.figures import specs_by_name
from loadcheck.logs.text import read_lines
from loadcheck.show.verdict import explain, figure_rows
from loadcheck.verdict import Evidence, Finding, Status, Verdict, causes

MAX_LINE_CHARS = 400


@dataclass(frozen=True, slots=True)
class Told:
    """One finding: its step and status, in a sentence, and the line of the log that it is about; empty where there is none."""

    step: str
    status: str
    text: str
    line: str


@dataclass(frozen=True, slots=True)
class Row:
    """One figure as text, its status ("fail", "refused", "ok" or empty where nothing was checked), and its findings.

    Attributes:
        unreached: whether it only lacks, as the load ended before.
    """

    name: str
    predicted: str
    measured: str
    expected: str
    status: str
    told: tuple[Told, ...]
    unreached: bool = False

    @property
    def wrong(self) -> bool:
        return self.status in ("fail", "refused") and not self.unreached


def rows_of(evidence: Evidence, verdict: Verdict, more: Iterable[Sequence[str]] = ()) -> tuple[Row, ...]:
    """A row for each figure that the prediction, the log or the ranges state, and for what else was measured."""
    told = _told(verdict.findings, evidence)
    by_figure: dict[str, list[Told]] = {}
    for finding, each in zip(verdict.findings, told, strict=True):
        by_figure.setdefault(finding.figure, []).append(each)
    unreached = {each.figure for each in _unreached(verdict)}
    unreached -= {each.figure for each in verdict.failures() if not each.missing}
    return tuple(
        Row(name, predicted, measured, expected, status.lower(), tuple(by_figure.get(name, ())), name in unreached)
        for name, predicted, measured, expected, status in (*figure_rows(evidence, verdict), *more)
    )


def _unreached(verdict: Verdict) -> tuple[Finding, ...]:
    """What a load that did not finish did not print."""
    return tuple(each for each in verdict.failures() if each.missing) if causes(verdict) else ()


def failures_of(verdict: Verdict, evidence: Evidence | None) -> tuple[Told, ...]:
    """Everything that keeps the load from being a pass, of one that did not finish the cause first and nothing that it did not reach."""
    unreached, ends = _unreached(verdict), causes(verdict)
    rest = (each for each in verdict.failures() if each not in unreached and each not in ends)
    return _told((*ends, *rest), evidence)


def others_of(verdict: Verdict, evidence: Evidence | None) -> tuple[Told, ...]:
    """What was checked of versions, settings and the run and was fine, and what was not checked, and why."""
    figures = specs_by_name()
    kept = [each for each in verdict.findings if each.status in (Status.OK, Status.SKIPPED) and each.figure not in figures]  # fmt: skip
    return _told(kept, evidence)


def _told(findings: Iterable[Finding], evidence: Evidence | None) -> tuple[Told, ...]:
    findings = tuple(findings)
    lines = dict(_lines(findings, evidence))
    return tuple(
        Told(each.check.value, each.status.value, explain(each), lines.get(each.where.line, "") if each.where else "")
        for each in findings
    )


def _lines(findings: Iterable[Finding], evidence: Evidence | None) -> Iterator[tuple[int | None, str]]:
    """The text of each line that a finding is about, by its number."""
    if evidence is None:
        return
    numbers = {each.where.line for each in findings if each.where is not None and each.where.line is not None}
    for number, text in (read_lines(evidence.log.path, numbers) if numbers else {}).items():
        yield number, text[:MAX_LINE_CHARS]
