"""Rendering for people: a prediction, a run and its verdict. Everything shown is data made elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from html import escape as escape_html
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from loadcheck.errors import printable
from loadcheck.figures import Figures, FigureSpec, Kind, Value, figure_specs, specs_by_name
from loadcheck.terminal import escape
from loadcheck.units import to_gib
from loadcheck.verdict import Check, Evidence, Finding, Status, Verdict, causes
from loadcheck.verdict.cause import ENDS
from loadcheck.verdict.stack import SETTINGS

if TYPE_CHECKING:
    from loadcheck.predict import Prediction
    from loadcheck.predict.fit import Fit
    from loadcheck.runs.folder import RunRecord
    from loadcheck.specs.profile import Profile

_STYLES = {"ok": "green", "pass": "green", "fail": "bold red", "refused": "yellow", "skipped": "yellow"}


def console(stderr: bool = False) -> Console:
    """A console whose output reads the same without colour, and whose lines keep to the terminal's width."""
    return Console(stderr=stderr, highlight=False, soft_wrap=False)


_HTML = """<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>TITLE</title>
<style>body {{ color: {foreground}; background: {background} }} pre {{ font: 14px/1.4 monospace; overflow-x: auto }} {stylesheet}</style>
</head>
<body><pre>{code}</pre></body>
</html>
"""
HTML_WIDTH = 120


def to_html(title: str, show: Callable[[Console], None]) -> str:
    """What `show` prints, as a page that needs nothing else: no script, no font, no address."""
    page = Console(
        record=True, file=StringIO(), width=HTML_WIDTH, highlight=False, force_terminal=True, color_system="standard"
    )
    show(page)
    named = escape_html(printable(title)).replace("{", "&#123;").replace("}", "&#125;")  # rich fills what is in braces
    return page.export_html(code_format=_HTML.replace("TITLE", named))


def show_verdict(out: Console, evidence: Evidence | None, verdict: Verdict) -> None:
    """The table of figures (none where the log says nothing), what failed and what to do, and the verdict on a line of its own.

    Of a load that did not finish the cause is said once more at the end, where people look.
    """
    if evidence is not None:
        out.print(_figures_table(evidence, verdict))
    _show_failures(out, verdict, evidence is not None and evidence.assumed)
    _show_run(out, verdict)
    notes = [finding.why for finding in verdict.findings if finding.status is Status.SKIPPED]
    for note in notes:
        out.print(f"Note: {escape(note)}")
    out.print(f"\n[{_STYLES[verdict.status]}]{verdict.status.upper()}[/]  {_summary(verdict)}")
    for cause in causes(verdict)[:1]:
        out.print(f"Cause: {escape(cause.why)}\nMend: {escape(cause.remedy)}")


def _summary(verdict: Verdict) -> str:
    counts = {status: sum(f.status is status for f in verdict.findings) for status in Status}
    return ", ".join(f"{count} {status.value}" for status, count in counts.items() if count)


def _figures_table(evidence: Evidence, verdict: Verdict) -> Table:
    """predicted | measured | expected, a row for each figure that any of the three says."""
    table = Table(box=None, pad_edge=False, show_edge=False)
    table.add_column("figure", no_wrap=True)
    for column in ("predicted", "measured", "expected"):
        table.add_column(column, justify="right", overflow="fold")
    table.add_column("")
    predicted = evidence.predicted or Figures()
    for attribute, spec in figure_specs().items():
        reading = evidence.attempt.reading(attribute)
        findings = [finding for finding in verdict.findings if finding.figure == spec.name]
        guess = getattr(predicted, attribute)
        if reading is None and guess is None and not findings:
            continue
        table.add_row(
            _label(spec),
            "" if guess is None else escape(spec.show(guess)),
            "not in log" if reading is None else escape(reading.show()),
            _expected(findings),
            _status(findings),
        )
    return table


def _label(spec: FigureSpec) -> str:
    unit = spec.kind.value if spec.kind in (Kind.PERCENT, Kind.RATIO) and not spec.name.endswith("_pct") else ""
    return f"{spec.name} {unit}".strip()


def _expected(findings: Iterable[Finding]) -> str:
    """The golden value or range, where there is one."""
    for finding in findings:
        if finding.check is Check.GOLDEN:
            if finding.low is None or finding.low == finding.high:
                return escape(_plain(finding.predicted if finding.predicted is not None else finding.low))
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
    """The worst of a figure's findings, in a word; nothing where nothing was checked."""
    for status in (Status.FAIL, Status.REFUSED, Status.OK):
        if any(finding.status is status for finding in findings):
            return f"[{_STYLES[status.value]}]{status.value if status is Status.OK else status.value.upper()}[/]"
    return ""


def judged_as(evidence: Evidence) -> str:
    """By which settings a load is judged, and where they come from."""
    profile = evidence.profile
    if profile is None:
        return "judged as a load of no known profile, by what its log says"
    share = f" (utilization {profile.gpu_memory_utilization:g})" if profile.fast_inference else ""
    fits = ", which fits its model and length; for other settings see check --help" if evidence.assumed else ""
    return f"judged as profile {profile.name}{share}{fits}"


def _show_failures(out: Console, verdict: Verdict, assumed: bool) -> None:
    """What failed; where the settings were only assumed, and are not the load's, not what follows from that."""
    failures, ends = verdict.failures(), causes(verdict)
    if failures:
        out.print()
    if ends:
        _show_unfinished(out, failures, ends)
        return
    wrong_settings = assumed and any(f.check is Check.STACK and f.figure in SETTINGS for f in failures)
    follow = [f for f in failures if wrong_settings and f.check in (Check.MODEL, Check.GOLDEN)]
    missing = [f for f in failures if f.missing and f.check is Check.SHAPE]
    for finding in failures:
        if finding not in (*missing, *follow):
            _show_failure(out, finding)
    if follow:
        names = ", ".join(dict.fromkeys(finding.figure for finding in follow))
        out.print(f"Judged by settings that are not this load's, these are off, too: {escape(names)}")
    if len(missing) > 3:
        names = ", ".join(dict.fromkeys(finding.figure for finding in missing))
        out.print(f"[{_STYLES['fail']}]FAIL[/] {len(missing)} required lines are not in the log: {escape(names)}")
        out.print(f"     {escape(missing[0].remedy)}")
    else:
        for finding in missing:
            _show_failure(out, finding)


def _show_unfinished(out: Console, failures: Iterable[Finding], ends: tuple[Finding, ...]) -> None:
    """Why a load did not finish, what else was wrong by then, and of what it did not reach the count alone."""
    for finding in ends:
        _show_failure(out, finding)
    for finding in failures:
        if finding.figure not in ENDS and not finding.missing:
            _show_failure(out, finding)
    unreached = {finding.figure for finding in failures if finding.missing} & set(specs_by_name())
    if unreached:
        out.print("1 figure was not reached" if len(unreached) == 1 else f"{len(unreached)} figures were not reached")


def _show_failure(out: Console, finding: Finding) -> None:
    out.print(f"[{_STYLES[finding.status.value]}]{finding.status.value.upper()}[/] {escape(explain(finding))}")


def explain(finding: Finding) -> str:
    """One finding in a sentence: what, against what, why, what to do, where."""
    said = f"{finding.figure}"
    if finding.measured is not None:
        said += f" is {_plain(finding.measured)}{_unit(finding)}"
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


def _unit(finding: Finding) -> str:
    return f" {finding.unit}" if finding.unit else ""


def _show_run(out: Console, verdict: Verdict) -> None:
    for finding in verdict.findings:
        if finding.check is Check.RUN and finding.status is Status.OK:
            answer = f" [bold]{escape(str(finding.measured))}[/]" if finding.measured is not None else ""
            out.print(f"{escape(finding.figure)}: {escape(finding.why)}{':' if answer else ''}{answer}")


def show_end(out: Console, record: RunRecord, folder: Path) -> None:
    """How the run ended and where it is kept."""
    for note in record.notes:
        out.print(f"Note: {escape(note)}")
    took = "" if record.duration_s is None else f" after {record.duration_s:.1f} s"
    reason = f" ({escape(record.reason)})" if record.reason else ""
    out.print(f"{escape(record.outcome)}{reason}{took}; kept in {escape(str(folder))}")


def show_prediction(out: Console, prediction: Prediction, tree: bool) -> None:
    """Every figure of the load log before there is one, and whether it fits."""
    table = Table(box=None, pad_edge=False, show_edge=False)
    table.add_column("figure", no_wrap=True)
    table.add_column("predicted", justify="right", overflow="fold")
    for spec, value in prediction.figures.items():
        if value is not None:
            table.add_row(_label(spec), escape(spec.show(value)))
    out.print(table)
    if tree:
        out.print()
        for depth, term in prediction.terms.walk():
            source = f"  [dim]{escape(term.source)}[/]" if term.source else ""
            out.print(f"{'  ' * depth}{term.num_bytes:>{16}} {escape(term.name)}{source}")
    for note in (*prediction.notes, *prediction.edges):
        out.print(f"Note: {escape(note)}")
    for obstacle in prediction.obstacles:
        out.print(f"[bold red]NO[/] {escape(obstacle.what)}; {escape(obstacle.remedy)}")
        out.print(f"   the engine would say: {escape(obstacle.engine_says)}")
    out.print("\n[green]FITS[/]" if prediction.fits else "\n[bold red]DOES NOT FIT[/]")


def show_fit(out: Console, fit: Fit, base: Profile) -> None:
    """The settings that fit, best first; what each knob moves; what stands on an edge; or what would fit."""
    if fit.proposals:
        out.print(_proposals_table(fit))
        out.print("\nThe best of them as flags of `loadcheck load`:", markup=False)
        out.print(f"  {printable(fit.proposals[0].flags(base)) or '(the profile as it is)'}", markup=False)
        out.print("\nWhat one step of each setting moves, in GiB, from the best:", markup=False)
        out.print(_knobs_table(fit))
    else:
        out.print("[bold red]NOTHING FITS[/] as asked. What would:")
        for way in fit.would_fit or ("no smaller rank, no other targets and no card of the table",):
            out.print(f"  {way}", markup=False)
    for edge in fit.edges:
        out.print(f"Edge: {escape(edge)}")


def _proposals_table(fit: Fit) -> Table:
    table = Table(box=None, pad_edge=False, show_edge=False)
    for column in ("max_seq_length", "utilization", "sequences", "concurrency", "KV GiB", "peak GiB", "left GiB"):
        table.add_column(column, justify="right", overflow="fold")
    for proposal in fit.proposals:
        figures, profile = proposal.prediction.figures, proposal.profile
        table.add_row(
            f"{profile.max_seq_length:,}",
            f"{profile.gpu_memory_utilization:.2f}",
            f"{figures.max_num_seqs}",
            f"{figures.max_concurrency:.2f}x",
            f"{to_gib(figures.kv_cache_bytes or 0):.2f}",
            f"{to_gib(figures.peak_device_bytes or 0):.2f}",
            f"{to_gib(proposal.headroom_bytes):.2f}",
        )
    return table


def _knobs_table(fit: Fit) -> Table:
    table = Table(box=None, pad_edge=False, show_edge=False)
    table.add_column("setting", no_wrap=True)
    for column in ("peak", "KV cache"):
        table.add_column(column, justify="right")
    for knob in fit.knobs:
        table.add_row(knob.change, f"{to_gib(knob.peak_bytes):+.2f}", f"{to_gib(knob.kv_cache_bytes):+.2f}")
    return table
