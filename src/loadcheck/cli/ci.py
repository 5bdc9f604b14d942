"""--junit, --ctrf, --summary and --annotations: the verdict in the forms that CI systems read. CI systems are detected by their variables."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from loadcheck.cli.options import PATH
from loadcheck.cli.written import write_named
from loadcheck.errors import BadInput, Problem
from loadcheck.runs.private import open_private
from loadcheck.runs.redact import Redactor
from loadcheck.runs.secrets import secrets

if TYPE_CHECKING:
    from loadcheck.show.ci.report import Report

AGENT_S = 10
"""Timeout of Buildkite's agent, in seconds."""
_HELP = {
    "junit": "Also write the checks as JUnit XML.",
    "ctrf": "Also write the checks as CTRF JSON.",
    "summary": "Also append a Markdown summary to this file.  [default: GitHub Actions' own]",
    "annotations": "Also write GitLab's artifacts:reports:annotations.",
}


@dataclass(frozen=True, slots=True)
class CiReports:
    """The files that were asked for; None for the others."""

    junit: Path | None
    ctrf: Path | None
    summary: Path | None
    annotations: Path | None

    def write(self, report: Callable[[], Report], run: Path | None = None) -> None:
        """Write each form that was asked for, and annotate in GitHub Actions and Buildkite. Without any reader, no report is made.

        BadInput where a file cannot be written.

        Args:
            run: a folder whose own files stay as they are.
        """
        in_github, agent = os.environ.get("GITHUB_ACTIONS") == "true", _buildkite_agent()
        if not (in_github or agent or any((self.junit, self.ctrf, self.summary, self.annotations))):
            return
        self._write_files(found := report(), run)
        if in_github:
            _print_github(found)
        if agent:
            _annotate_buildkite(found, agent)

    def _write_files(self, report: Report, run: Path | None) -> None:
        from loadcheck.show.ci.annotations import gitlab_file
        from loadcheck.show.ci.ctrf import ctrf
        from loadcheck.show.ci.junit import junit

        if self.junit is not None:
            write_named(self.junit, junit(report), "--junit", (".xml",), run)
        if self.ctrf is not None:
            write_named(self.ctrf, ctrf(report), "--ctrf", (".json",), run)
        if self.annotations is not None:
            write_named(self.annotations, gitlab_file(report, os.environ), "--annotations", (".json",), run)
        if self.summary is not None:
            _append_summary(self.summary, report)


RUNNERS_SUMMARY = "GITHUB_STEP_SUMMARY"
"""GitHub's runner names the file of a step's summary in this variable."""


def ci_options(command: Callable[..., int]) -> Callable[..., int]:
    """The four flags, as one argument `ci_reports` of the command."""

    @wraps(command)
    def with_reports(*args: Any, **values: Any) -> int:
        return command(*args, ci_reports=CiReports(**{name: values.pop(name) for name in _HELP}), **values)

    decorated: Callable[..., int] = with_reports
    for name, text in reversed(_HELP.items()):
        envvar = RUNNERS_SUMMARY if name == "summary" else None
        option = click.option(f"--{name}", type=PATH, metavar="FILE", envvar=envvar, help=text)
        decorated = option(decorated)
    return decorated


def _append_summary(path: Path, report: Report) -> None:
    """Append as much as the size limit of a step leaves."""
    from loadcheck.show.ci.summary import MAX_BYTES, markdown

    try:
        with open_private(path, "ab") as file:
            text = Redactor(secrets(os.environ)).text(markdown(report, MAX_BYTES - file.tell()))
            file.write(text.encode()[: max(MAX_BYTES - file.tell(), 0)])
    except OSError as error:
        why = error.strerror or str(error)
        if str(path) == os.environ.get(
            RUNNERS_SUMMARY
        ):  # a container may have the variable, and not the file: the verdict counts
            click.echo(
                f"Note: {path} ({RUNNERS_SUMMARY}) gets no summary: {why}; mount it, or unset {RUNNERS_SUMMARY}",
                err=True,
            )
            return
        raise BadInput(Problem(str(path), why, "name a file", "--summary")) from None


def _print_github(report: Report) -> None:
    """Print the annotations on stderr, which a runner reads, too: stdout belongs to the command."""
    from loadcheck.show.ci.annotations import github_lines

    for line in github_lines(report):
        click.echo(line, err=True)


def _buildkite_agent() -> str | None:
    return shutil.which("buildkite-agent") if os.environ.get("BUILDKITE") == "true" else None


def _annotate_buildkite(report: Report, agent: str) -> None:
    """Pass the summary to the agent. A failure is reported, and changes no verdict."""
    from loadcheck.show.ci.annotations import buildkite_command
    from loadcheck.show.ci.summary import markdown

    text = Redactor(secrets(os.environ)).text(markdown(report))
    try:
        subprocess.run([agent, *buildkite_command(report)[1:]], input=text.encode(), check=True, timeout=AGENT_S, capture_output=True)  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        click.echo(f"Warning: buildkite-agent could not annotate: {type(error).__name__}", err=True)
