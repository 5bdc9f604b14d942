"""`loadcheck list`: the known cards, models and profiles."""

from __future__ import annotations

import click

from loadcheck.cli.options import json_option
from loadcheck.cli.output import print_json
from loadcheck.errors import EXIT_PASS
from loadcheck.show.lists import LISTS, show_list
from loadcheck.terminal import console


@click.command("list", short_help="List the known cards, models and profiles.")
@click.argument(
    "kind", metavar="[cards|models|profiles]", required=False, type=click.Choice(["cards", "models", "profiles"])
)
@json_option
def command(kind: str | None, as_json: bool) -> int:
    """List the known cards, models and profiles; without an argument, all three.

    CC is the compute capability. What was not measured on a card is estimated in its predictions. A card without a known free memory can only be
    predicted with --gpu-free-bytes.

    Exit codes: 0 listed, 2 bad input.
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
