"""What a command prints: a table on stdout, or the one JSON document."""

from __future__ import annotations

import shlex
from typing import Any

import click

from loadcheck.cli.options import PATH
from loadcheck.encoding import json_text

SCHEMA = 1
"""Version of the --json documents. Keys may be added under the same number; none changes its meaning."""


html_option = click.option("--html", type=PATH, metavar="FILE", help="Also write it as a web page (one file).")


def given_command() -> str:
    """The command line of this call, quoted for a shell."""
    return shlex.join(("loadcheck", *(click.get_current_context().find_root().obj or ())))


def print_json(data: dict[str, Any]) -> None:
    """Print one document on stdout, with its schema number; `profile` and `run` are null if the data has none."""
    click.echo(json_text({"schema": SCHEMA, "profile": None, "run": None, **data}))
