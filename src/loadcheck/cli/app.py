"""The command line: its commands, imported when they are called, and how errors end them."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import Any

import click

from loadcheck import __version__
from loadcheck.cli.ending import ended_by
from loadcheck.cli.group import Group
from loadcheck.cli.output import print_json
from loadcheck.encoding import print_in_any_encoding
from loadcheck.errors import EXIT_PASS, LoadcheckError, Problem, printable, printable_lines
from loadcheck.runs.child import ignore_signals
from loadcheck.runs.redact import redacted_output
from loadcheck.runs.secrets import secrets

EXIT_BROKEN_PIPE = 141
"""Nobody read the output, so this is no pass: 128 + SIGPIPE, as in a shell."""
EXIT_INTERRUPTED = 130
"""128 + SIGINT, as in a shell."""


COMMANDS = (
    "doctor",
    "list",
    "predict",
    "fit",
    "load",
    "train",
    "export",
    "generate",
    "serve",
    "parse",
    "check",
    "report",
    "compare",
    "fleet",
    "weights",
    "manifest",
)


@contextmanager
def _numberless_broken_pipe() -> Iterator[None]:
    """Strip the errno of a broken pipe, by which click would recognise it and end the program with exit code 1."""
    try:
        yield
    except BrokenPipeError:
        raise BrokenPipeError from None


class Commands(Group):
    """The commands, each imported when it is called."""

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        with _numberless_broken_pipe():  # --help and --version are answered here
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        with _numberless_broken_pipe():
            return super().invoke(ctx)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:  # noqa: ARG002
        if name not in COMMANDS:
            return None
        module = import_module(f"loadcheck.cli.{'list_' if name == 'list' else name}")
        found: click.Command = module.command
        return found


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="loadcheck %(version)s")
@click.option("--debug", is_flag=True, help="Show a traceback for every error.")
def cli(debug: bool) -> None:
    """Predict, measure and judge every memory figure of a 4-bit load with Unsloth and vLLM.

    Exit codes: 0 in range, 1 out of range or would not fit, 2 bad input, 3 this machine cannot.
    """


def main() -> None:
    """Entry point: prints errors as `Error: FILE: KEY: what is wrong; how to fix it` on stderr, and exits with their code."""
    print_in_any_encoding()
    code = run(sys.argv[1:])
    _drop_what_nobody_reads()
    sys.exit(code)


def _drop_what_nobody_reads() -> None:
    """Discard what is still buffered for a closed pipe or a full disk; `run` has reported that already.

    Python flushes it when it exits; if that fails, as on Debian 12 (3.11.2), the exit code is 120 instead of ours.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None and not stream.closed:
                stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code."""
    with redacted_output(secrets(os.environ)):
        return _run(arguments)


def _run(arguments: list[str]) -> int:
    debug, as_json = "--debug" in arguments, "--json" in arguments
    try:
        code = cli.main(arguments, prog_name="loadcheck", standalone_mode=False, obj=tuple(arguments))
        return code if isinstance(code, int) else EXIT_PASS
    except click.ClickException as error:
        problems, exit_code = ended_by(error)
        error.show()
        return emit_json_error(problems, exit_code, as_json)
    except (click.Abort, KeyboardInterrupt):
        with ignore_signals():  # a second Ctrl-C must not lose the message
            click.echo("Error: interrupted", err=True)
            return emit_json_error((Problem("loadcheck", "interrupted", "run it again"),), EXIT_INTERRUPTED, as_json)
    except BrokenPipeError:
        sys.stderr.close()
        return EXIT_BROKEN_PIPE
    except (LoadcheckError, OSError) as error:
        problems, exit_code = ended_by(error)
        _show_errors(problems, debug)
        return emit_json_error(problems, exit_code, as_json)


def emit_json_error(problems: tuple[Problem, ...], exit_code: int, as_json: bool) -> int:
    """Return the exit code; with --json, print the problems as the document on stdout."""
    if as_json:
        keys = ("where", "key", "what", "remedy")
        said = [{key: getattr(each, key) for key in keys} for each in problems]
        with suppress(OSError):  # stdout itself may be what is full or gone
            print_json({"error": said, "exit_code": exit_code})
    return exit_code


def _show_errors(problems: tuple[Problem, ...], debug: bool) -> None:
    if debug:
        click.echo(printable_lines(traceback.format_exc()), err=True)
    for problem in problems:
        click.echo(f"Error: {printable(str(problem))}", err=True)
