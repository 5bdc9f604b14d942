"""`loadcheck list`: what is known by name."""

from __future__ import annotations

import click

from loadcheck.cli.options import json_option
from loadcheck.cli.output import print_json
from loadcheck.errors import EXIT_PASS
from loadcheck.show.lists import LISTS, show_list
from loadcheck.terminal import console


@click.command("list", short_help="List the cards, models and profiles that are known by name.")
@click.argument("kind", required=False, type=click.Choice(["cards", "models", "profiles"]))
@json_option
def command(kind: str | None, as_json: bool) -> int:
    """List the cards, models and profiles that are known by name; without a word, all three.

    CC is the compute capability. What is not measured of a card is an estimate in its predictions; without its free memory there
    is none by name.
    """
    kinds = [kind] if kind else list(LISTS)
    if as_json:
        print_json({each: LISTS[each]() for each in kinds})
        return EXIT_PASS
    out = console()
    for number, each in enumerate(kinds):
        if number:
            out.print()
        show_list(out, each)
    return EXIT_PASS
