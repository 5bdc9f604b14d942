"""The report for a person: what is wrong, why, and how to fix it."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from loadcheck.machine import Finding, Level, Report
from loadcheck.terminal import escape, print_item

_STYLES = {Level.OK: "green", Level.WARNING: "yellow", Level.PROBLEM: "bold red"}
_ENDS = {
    "fine": "[green]FINE[/]  this machine is ready for profile {}",
    "warnings": "[green]FINE[/]  this machine is ready for profile {}, with warnings",
    "problems": "[bold red]PROBLEMS[/]  profile {} will not load until they are fixed",
    "cannot": "[bold red]CANNOT[/]  this machine cannot load profile {}",
}


def show_troubles(out: Console, report: Report) -> None:
    """Print only the warnings and problems, before a load."""
    for finding in report.findings:
        if finding.level is not Level.OK:
            _show_finding(out, finding)


def show_report(out: Console, report: Report) -> None:
    """Print each finding with its reason and fix, and the result on a line of its own."""
    for finding in report.findings:
        _show_finding(out, finding)
    out.print("\n" + _ENDS[report.outcome].format(escape(report.profile)))


def _show_finding(out: Console, finding: Finding) -> None:
    level = f"{finding.level.value:<8}"
    lead = Text.assemble((level, _STYLES[finding.level]), f" {finding.check:<16}")
    print_item(out, lead, finding.what)
    for word, text in (("why:", finding.why), ("fix:", finding.remedy), ("see:", ", ".join(finding.references))):
        if text:
            print_item(out, Text(f"{'':<9}{word}"), text)
