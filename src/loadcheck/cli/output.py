"""What a command prints: a table on stdout, or the one JSON document."""

from __future__ import annotations

from typing import Any

import click

from loadcheck.encoding import json_text

SCHEMA = 1
"""Of every document of --json: a key may be added under the same number, and none changes its meaning."""


def print_json(data: dict[str, Any]) -> None:
    """One document on stdout, with its schema number; `profile` and `run` are null where the data has none."""
    click.echo(json_text({"schema": SCHEMA, "profile": None, "run": None, **data}))
