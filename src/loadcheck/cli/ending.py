"""The errors that end a command, as the problems to show and the exit code."""

from __future__ import annotations

import click

from loadcheck.errors import EXIT_BAD_INPUT, LoadcheckError, Problem, printable_lines, remedy_of


def ended_by(error: Exception) -> tuple[tuple[Problem, ...], int]:
    """The problems and the exit code of an error of ours, of a wrong command line, or of the operating system."""
    if isinstance(error, LoadcheckError):
        return error.problems, error.exit_code
    if isinstance(error, click.ClickException):
        return (
            Problem("command line", printable_lines(error.format_message()), "see loadcheck --help"),
        ), EXIT_BAD_INPUT
    assert isinstance(error, OSError)
    return (Problem(str(error.filename or "system"), str(error.strerror), remedy_of(error)),), EXIT_BAD_INPUT
