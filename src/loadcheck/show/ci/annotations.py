"""A verdict that a CI shows beside the change: lines for GitHub Actions, a file for GitLab, a command for Buildkite's agent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from loadcheck.encoding import json_text
from loadcheck.errors import printable
from loadcheck.show.ci.report import Report

MAX_LINES = 10
"""GitHub shows ten errors of a step (docs.github.com, workflow commands)."""
BUILDKITE = ("buildkite-agent", "annotate", "--context", "loadcheck", "--style")
_ESCAPES = {"%": "%25", "\r": "%0D", "\n": "%0A", ":": "%3A", ",": "%2C"}


def github_lines(report: Report, environ: Mapping[str, str]) -> Iterator[str]:
    """Workflow commands: an error for each failure, the cause first, beside the file that is at fault; for a pass a notice."""
    title = _property(f"loadcheck {report.status.upper()}")
    if report.passed:
        yield f"::notice title={title}::{_message(f'{report.title}: {report.summary}')}"
        return
    failed = [(result.message, result.file) for result in report.results if result.outcome.is_bad]
    if report.cause:
        of_cause = [file for text, file in failed if report.cause in text]
        others = ((text, file) for text, file in failed if report.cause not in text)
        failed = [(f"{report.cause}; {report.fix}", of_cause[0] if of_cause else ""), *others]
    for text, file in failed[:MAX_LINES] or [(report.summary, "")]:
        yield f"::error {_file(file, environ)}title={title}::{_message(text)}"


def _file(name: str, environ: Mapping[str, str]) -> str:
    """The property that places an annotation beside a file of the checkout; empty for another file, or none."""
    workspace = Path(environ.get("GITHUB_WORKSPACE") or ".").resolve()
    file = Path(printable(name)).resolve()
    inside = file.is_file() and file.is_relative_to(workspace)
    return f"file={_property(str(file.relative_to(workspace)))}," if inside else ""


def gitlab_file(report: Report, environ: Mapping[str, str]) -> str:
    """artifacts:reports:annotations: the verdict as a link to the job."""
    verdict, told = f"{report.status.upper()}: ", report.cause or report.summary
    link = {
        "label": printable(f"loadcheck {verdict}{told.removeprefix(verdict)}"),
        "url": environ.get("CI_JOB_URL", ""),
    }
    return json_text({"loadcheck": [{"external_link": link}]}) + "\n"


def buildkite_command(report: Report) -> tuple[str, ...]:
    """The agent's own command, which reads Markdown from stdin."""
    return (*BUILDKITE, "success" if report.passed else "error")


def _message(text: str) -> str:
    return "".join(_ESCAPES[char] if char in "%\r\n" else char for char in printable(text))


def _property(text: str) -> str:
    return "".join(_ESCAPES.get(char, char) for char in printable(text))
