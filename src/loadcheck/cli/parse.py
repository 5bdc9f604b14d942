"""`loadcheck parse`: every figure of a log."""

from __future__ import annotations

from pathlib import Path

import click

from loadcheck.checking import read_log
from loadcheck.cli.chosen import log_file
from loadcheck.cli.options import PATH, json_option
from loadcheck.cli.output import print_json
from loadcheck.errors import EXIT_PASS, printable
from loadcheck.show.verdict import reading_rows
from loadcheck.terminal import console, print_table


@click.command("parse", short_help="Print every figure of a log, with its line.")
@click.argument("target", metavar="RUN|LOG", type=PATH)
@json_option
def command(target: Path, as_json: bool) -> int:
    """Print every figure of a load LOG, or of a RUN folder's log, with its line. Use - to read a log from stdin.

    Exit codes: 0 read, whatever it says, 2 it is no load log.
    """
    with log_file(target) as file:
        parsed = read_log(file)
    if as_json:
        print_json(parsed.to_json())
        return EXIT_PASS
    out = console()
    for number, attempt in enumerate(parsed.attempts, 1):
        out.print(f"attempt {number} of {len(parsed.attempts)}: {attempt.outcome.value}")
        print_table(out, ("", "", ""), "lrl", reading_rows(attempt))
        if attempt.error is not None:
            out.print(f"  error, line {attempt.error.line}: {printable(attempt.error.text)}", markup=False)
    return EXIT_PASS
