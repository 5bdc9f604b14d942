"""`loadcheck manifest`: what is installed."""

from __future__ import annotations

import click

from loadcheck.cli.options import json_option
from loadcheck.cli.output import print_json
from loadcheck.errors import EXIT_FAIL, EXIT_PASS
from loadcheck.manifest import read_manifest
from loadcheck.show.manifest import show_manifest
from loadcheck.terminal import console


@click.command("manifest", short_help="List what is installed, and what differs from the lock.")
@click.option("--files", is_flag=True, help="Also hash every file and compare it with its wheel (half a minute).")
@json_option
def command(files: bool, as_json: bool) -> int:
    """List what is installed here, and what differs from the lock.

    Exit codes: 0 nothing differs, 1 something does, 3 this environment is none of the stack's.
    """
    found = read_manifest(files)
    if as_json:
        print_json(found.to_json())
    else:
        show_manifest(console(), console(stderr=True), found)
    return EXIT_FAIL if found.problems else EXIT_PASS
