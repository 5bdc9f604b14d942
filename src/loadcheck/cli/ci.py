"""--junit, --ctrf, --summary and --annotations: the verdict in the forms that CI systems read. CI systems are detected by their variables."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from loadcheck.cli.ending import ended_by
from loadcheck.cli.options import PATH
from loadcheck.cli.written import refusal, write_named
from loadcheck.errors import BadInput, LoadcheckError, Problem, printable
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


@dataclass(slots=True)
class CiReports:
    """The files that were asked for; None for the others.

    Attributes:
        inputs: what the command reads, and its run folder: files that no report may overwrite.
        as_json: whether an error is the one document of the command.
        made: whether a report was made; that of a later error leaves its files as they are.
        unwritten: the problems of the reports that could not be written.
    """

    junit: Path | None
    ctrf: Path | None
    summary: Path | None
    annotations: Path | None
    inputs: tuple[Path, ...] = ()
    as_json: bool = False
    made: bool = False
    unwritten: tuple[Problem, ...] = ()

    def write(self, report: Callable[[], Report], run: Path | None = None) -> None:
        """Write each form that was asked for, and annotate in GitHub Actions and Buildkite. Without any reader, no report is made.

        A file that cannot be written ends the command as BadInput, but only once the verdict is shown; with --json at once.

        Args:
            run: a run folder that is no input of the command; its own files stay as they are.
        """
        in_github, agent = _in_github(), _buildkite_agent()
        if not (in_github or agent or any((self.junit, self.ctrf, self.summary, self.annotations))):
            return
        found, self.made = report(), True
        self.unwritten = tuple(self._write_files(found, self.inputs if run is None else (*self.inputs, run)))
        if in_github:
            _print_github(found)
        if agent:
            _annotate_buildkite(found, agent)
        if self.as_json:
            self.end()

    def end(self) -> None:
        """BadInput if a report could not be written."""
        if self.unwritten:
            raise BadInput(self.unwritten)

    def write_error(self, title: str, error: Exception) -> None:
        """Report the error that ends the command. A report that cannot be written is named, and changes neither the error nor the exit code."""
        problems, exit_code = ended_by(error)

        def report() -> Report:
            from loadcheck.show.ci.report import of_errors  # takes a while, and is only needed where there is a reader

            return of_errors(title, problems, exit_code)

        if not self.made:
            self.as_json = False  # the error is the document, not what is written of it
            self.write(report)
        elif _in_github():  # the verdict's report stays
            _print_github(report())
        for problem in self.unwritten:
            if problem not in problems:
                click.echo(f"Error: {printable(str(problem))}", err=True)

    def _write_files(self, report: Report, inputs: tuple[Path, ...]) -> Iterator[Problem]:
        """Write each file; yield the problems of those that cannot be written."""
        from loadcheck.show.ci.annotations import gitlab_file
        from loadcheck.show.ci.ctrf import ctrf
        from loadcheck.show.ci.junit import junit

        forms: tuple[tuple[Path | None, str, str, Callable[[], str]], ...] = (
            (self.junit, "--junit", ".xml", lambda: junit(report)),
            (self.ctrf, "--ctrf", ".json", lambda: ctrf(report)),
            (self.annotations, "--annotations", ".json", lambda: gitlab_file(report, os.environ)),
        )
        for path, flag, ending, text in forms:
            try:
                if path is not None:
                    write_named(path, text(), flag, (ending,), inputs)
            except BadInput as error:
                yield from error.problems
        if self.summary is not None:
            yield from _append_summary(self.summary, report, inputs)


RUNNERS_SUMMARY = "GITHUB_STEP_SUMMARY"
"""GitHub's runner names the file of a step's summary in this variable."""


class CiCommand(click.Command):
    """A command with the four flags, as its argument `ci_reports`. An error that ends it, even one of its flags, is reported, too."""

    def __init__(self, *args: Any, **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        for name, text in _HELP.items():
            envvar = RUNNERS_SUMMARY if name == "summary" else None
            self.params.append(click.Option([f"--{name}"], type=PATH, metavar="FILE", envvar=envvar, help=text))

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        given = list(args)  # click empties the list
        try:
            return super().make_context(info_name, args, parent, **extra)
        except click.UsageError as error:
            lenient = {**extra, "resilient_parsing": True, "ignore_unknown_options": True}
            readable = super().make_context(info_name, given, parent, **lenient)
            self._reports(readable).write_error(_title(readable), error)
            raise

    def invoke(self, ctx: click.Context) -> Any:
        reports = ctx.params["ci_reports"] = self._reports(ctx)
        title = _title(ctx)
        try:
            code = super().invoke(ctx)
            reports.end()
            return code
        except BrokenPipeError:
            raise  # nobody reads the output
        except (LoadcheckError, click.ClickException, OSError) as error:
            reports.write_error(title, error)
            raise

    @staticmethod
    def _reports(ctx: click.Context) -> CiReports:
        """The flags of the command, which takes them as one argument."""
        files = {name: ctx.params.pop(name, None) for name in _HELP}
        inputs = tuple(value for value in _flat(ctx.params.values()) if isinstance(value, Path))
        return CiReports(**files, inputs=inputs, as_json=bool(ctx.params.get("as_json")))


def _title(ctx: click.Context) -> str:
    """The command, and what it is about: `check load.log`."""
    arguments = [option.name for option in ctx.command.params if isinstance(option, click.Argument)]
    words = [str(word) for word in _flat(ctx.params.get(str(name)) for name in arguments) if word is not None]
    return " ".join((ctx.command_path.removeprefix("loadcheck "), *words))


def _flat(values: Iterable[Any]) -> Iterator[Any]:
    """The values; those of a parameter that takes several, one by one."""
    for value in values:
        yield from value if isinstance(value, tuple) else (value,)


def _append_summary(path: Path, report: Report, inputs: tuple[Path, ...]) -> Iterator[Problem]:
    """Append as much as the size limit of a step leaves; yield the problem of a file that cannot be written."""
    from loadcheck.show.ci.summary import MAX_BYTES, markdown

    try:
        if what := refusal(path, (".md",), inputs):
            yield Problem(str(path), what, "name another file, such as report.md", "--summary")
            return
        with open_private(path, "ab") as file:
            text = Redactor(secrets(os.environ)).text(markdown(report, MAX_BYTES - file.tell()))
            file.write(text.encode()[: max(MAX_BYTES - file.tell(), 0)])
    except OSError as error:
        why = error.strerror or str(error)
        if str(path) != os.environ.get(RUNNERS_SUMMARY):
            yield Problem(str(path), why, "name a file", "--summary")
            return
        # a container may have the variable, and not the file: the verdict counts
        note = f"Note: {path} ({RUNNERS_SUMMARY}) gets no summary: {why}; mount it, or unset {RUNNERS_SUMMARY}"
        click.echo(note, err=True)


def _in_github() -> bool:
    return os.environ.get("GITHUB_ACTIONS") == "true"


def _print_github(report: Report) -> None:
    """Print the annotations on stderr, which a runner reads, too: stdout belongs to the command."""
    from loadcheck.show.ci.annotations import github_lines

    for line in github_lines(report, os.environ):
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
