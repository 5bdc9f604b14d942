"""A verdict, for people: the figures, the failures with their fixes, and how the run ended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from loadcheck.figures import Figures, Kind, Value, figure_specs, specs_by_name
from loadcheck.logs import Attempt
from loadcheck.terminal import Name, escape, print_table, print_words
from loadcheck.verdict import Check, Evidence, Finding, Status, Verdict, causes
from loadcheck.verdict.cause import END_FIGURES
from loadcheck.verdict.stack import SETTINGS

if TYPE_CHECKING:
    from loadcheck.runs.record import RunRecord

_STYLES = {"ok": "green", "pass": "green", "fail": "bold red", "refused": "yellow", "skipped": "yellow"}
_WORDS = {"ok": _STYLES["ok"], "FAIL": _STYLES["fail"], "REFUSED": _STYLES["refused"]}
MAX_SHOWN_MISSING = 3
"""How many missing lines are shown in a sentence each."""


def show_verdict(
    out: Console,
    evidence: Evidence | None,
    verdict: Verdict,
    record: RunRecord | None = None,
    folder: Path | None = None,
) -> None:
    """Print the figures (without evidence none), the failures with their fixes, and the verdict on a line of its own.

    Anything but a pass ends with its cause and fix: the last lines of a CI job are the first that people see.

    Args:
        record, folder: the run's record, for how it ended, and its folder.
    """
    if rows := [] if evidence is None else list(figure_rows(evidence, verdict)):
        print_table(out, COLUMNS, "lrrrl", rows, _WORDS)
    _show_failures(out, verdict, evidence is not None and evidence.assumed)
    _show_run(out, verdict)
    for finding in verdict.findings:
        if finding.status is Status.SKIPPED:
            out.print(f"Note, {escape(finding.figure)}: {escape(finding.why)}")
    if record is not None:
        show_end(out, record, folder)
    out.print(f"\n[{_STYLES[verdict.status]}]{verdict.status.upper()}[/]  {escape(summary(verdict))}")
    for name, text in zip(("Cause", "Fix"), cause_and_fix(verdict), strict=True):
        if text:
            print_words(out, f"{name}: {text}")


def cause_and_fix(verdict: Verdict) -> tuple[str, str]:
    """Why this is no pass, and the fix: why a load did not finish, else the first failure. Empty for a pass."""
    for cause in causes(verdict)[:1]:
        return cause.why, cause.remedy
    failures = verdict.failures()
    first = next((finding for finding in failures if not finding.missing), failures[0] if failures else None)
    return ("", "") if first is None else (explain(replace(first, remedy="")), first.remedy)


_ENDED = {Status.FAIL: "failed", Status.REFUSED: "refused", Status.OK: "ok"}


def summary(verdict: Verdict) -> str:
    """How many checks ended how, on how many figures and other subjects, and which were skipped."""
    looked_at = [finding for finding in verdict.findings if finding.status in _ENDED]
    counts = Counter(finding.status for finding in looked_at)
    ended = [f"{counts[status]} {word}" for status, word in _ENDED.items() if counts[status]]
    if ended:
        noun = "check" if ended[0].startswith("1 ") else "checks"
        ended[0] = ended[0].replace(" ", f" {noun} ", 1)
        ended[-1] += f" ({_points(looked_at)})"
    skipped = [finding.figure for finding in verdict.findings if finding.status is Status.SKIPPED]
    if skipped:
        ended.append(f"{len(skipped)} skipped: {', '.join(dict.fromkeys(skipped))}, as noted")
    return ", ".join(ended)


def _points(looked_at: Sequence[Finding]) -> str:
    """What the checks are about: a figure often has several, and some are about no figure."""
    of_figures = [finding.figure for finding in looked_at if finding.figure in specs_by_name()]
    num_figures, num_others = len(set(of_figures)), len(looked_at) - len(of_figures)
    figures = f"{len(of_figures)} on {num_figures} figure{'' if num_figures == 1 else 's'}"
    others = f"{num_others} on versions, settings and the run"
    return ", ".join(text for text, shown in ((figures, of_figures), (others, num_others)) if shown)


COLUMNS = ("figure", "predicted", "measured", "expected", "")


def figure_rows(evidence: Evidence, verdict: Verdict) -> Iterator[tuple[str, str, str, str, str]]:
    """A row of COLUMNS for each figure that the prediction, the log or the golden ranges state."""
    predicted = evidence.predicted or Figures()
    for attribute, spec in figure_specs().items():
        reading = evidence.attempt.reading(attribute)
        findings = [finding for finding in verdict.findings if finding.figure == spec.name]
        guess = getattr(predicted, attribute)
        if reading is None and guess is None and not findings:
            continue
        cell = Name if spec.kind is Kind.TEXT else str
        yield (
            spec.name,
            cell("" if guess is None else spec.show(guess)),
            cell("not in log" if reading is None else reading.show()),
            cell(_expected(findings)),
            _status(findings),
        )


def reading_rows(attempt: Attempt) -> Iterator[tuple[str, str, str]]:
    """Each figure that a log states: its name, value and line."""
    for attribute, spec in figure_specs().items():
        reading = attempt.reading(attribute)
        if reading is not None:
            cell = Name if spec.kind is Kind.TEXT else str
            yield f"  {spec.name}", cell(reading.show()), f"line {reading.line}"


def _expected(findings: Iterable[Finding]) -> str:
    """The golden value or range, if there is one."""
    for finding in findings:
        if finding.check is Check.GOLDEN:
            if finding.low is None or finding.low == finding.high:
                return _plain(finding.predicted if finding.predicted is not None else finding.low)
            return f"{_plain(finding.low)} to {_plain(finding.high)}"
    return ""


def _plain(value: Value | None) -> str:
    return (
        ""
        if value is None
        else f"{value:,}"
        if isinstance(value, int)
        else f"{value:g}"
        if isinstance(value, float)
        else value
    )


def _status(findings: list[Finding]) -> str:
    """The worst of a figure's findings, in a word; empty if nothing was checked."""
    for status in (Status.FAIL, Status.REFUSED, Status.OK):
        if any(finding.status is status for finding in findings):
            word = str(status.value)
            return word if status is Status.OK else word.upper()
    return ""


def judged_as(evidence: Evidence) -> str:
    """The settings that a load is judged by, and where they come from."""
    profile = evidence.profile
    if profile is None:
        return "judged without a profile, by its log alone"
    share = f" (utilization {profile.gpu_memory_utilization:g})" if profile.fast_inference else ""
    fits = ", which matches its model and length; for other settings see check --help" if evidence.assumed else ""
    return f"judged as profile {profile.name}{share}{fits}"


def _show_failures(out: Console, verdict: Verdict, assumed: bool) -> None:
    """Print what failed. If the settings were only assumed and differ from the load's, print only the names of what follows from that."""
    failures = verdict.failures()
    if failures:
        out.print()
    if ends := causes(verdict):
        _show_unfinished(out, failures, ends)
        return
    follow = [finding for finding in failures if finding.check in (Check.MODEL, Check.GOLDEN)]
    if not assumed or not any(_is_of_setting(finding) for finding in failures):
        follow = []
    missing = [finding for finding in failures if finding.missing and finding.check is Check.SHAPE]
    _show_each(out, (finding for finding in failures if finding not in (*missing, *follow)))
    if follow:
        out.print(f"Also off, because these are not the settings of this load: {_figures(follow)}")
    _show_missing(out, missing)


def _is_of_setting(finding: Finding) -> bool:
    return finding.check is Check.STACK and finding.figure in SETTINGS


def _show_missing(out: Console, missing: Sequence[Finding]) -> None:
    """Print each line that the log lacks; of many, only the names."""
    if len(missing) <= MAX_SHOWN_MISSING:
        _show_each(out, missing)
        return
    out.print(f"[{_STYLES['fail']}]FAIL[/] {len(missing)} required lines are not in the log: {_figures(missing)}")
    out.print(f"     {escape(missing[0].remedy)}")


def _figures(findings: Iterable[Finding]) -> str:
    return escape(", ".join(dict.fromkeys(finding.figure for finding in findings)))


def _show_unfinished(out: Console, failures: Iterable[Finding], ends: tuple[Finding, ...]) -> None:
    """Print why a load did not finish, what else was wrong by then, and the number of figures that it did not reach."""
    _show_each(
        out, (*ends, *(finding for finding in failures if finding.figure not in END_FIGURES and not finding.missing))
    )
    unreached = {finding.figure for finding in failures if finding.missing} & set(specs_by_name())
    if unreached:
        out.print("1 figure was not reached" if len(unreached) == 1 else f"{len(unreached)} figures were not reached")


def _show_each(out: Console, findings: Iterable[Finding]) -> None:
    """Print each in a sentence; a shared remedy, such as for seven packages, only once."""
    remedies: set[str] = set()
    for finding in findings:
        told = replace(finding, remedy="") if finding.remedy in remedies else finding
        remedies.add(finding.remedy)
        out.print(f"[{_STYLES[finding.status.value]}]{finding.status.value.upper()}[/] {escape(explain(told))}")


def explain(finding: Finding) -> str:
    """One finding in a sentence: what, against what, why, the fix, where."""
    said = f"{finding.figure}"
    if finding.trouble is not None:
        said = finding.trouble
    elif finding.measured is not None:
        said += f" is {_plain(finding.measured)}" + (f" {finding.unit}" if finding.unit else "")
        wanted = _wanted(finding)
        said += f", not {wanted}" if wanted and finding.status is not Status.OK else ""
    parts = [f"{said}: {finding.why}" if finding.why else said]
    if finding.remedy:
        parts.append(finding.remedy)
    if finding.where:
        parts.append(f"at {finding.where}")
    return "; ".join(parts)


def _wanted(finding: Finding) -> str:
    if finding.low is not None and finding.high is not None and finding.low != finding.high:
        return f"{_plain(finding.low)} to {_plain(finding.high)}"
    if finding.low is not None and finding.high is None:
        return f"at least {_plain(finding.low)}"
    return _plain(finding.predicted if finding.predicted is not None else finding.low)


def _show_run(out: Console, verdict: Verdict) -> None:
    for finding in verdict.findings:
        if finding.check is Check.RUN and finding.status is Status.OK:
            answer = f" [bold]{escape(str(finding.measured))}[/]" if finding.measured is not None else ""
            out.print(f"{escape(finding.figure)}: {escape(finding.why)}{':' if answer else ''}{answer}")


def show_end(out: Console, record: RunRecord, folder: Path | None) -> None:
    """Print how the run ended, and its folder."""
    for note in record.notes:
        out.print(f"Note: {escape(note)}")
    took = "" if record.duration_s is None else f" after {record.duration_s:.1f} s"
    reason = f" ({record.reason})" if record.reason else ""
    print_words(out, f"{record.outcome}{reason}{took}{'' if folder is None else f'; kept in {folder}'}")
