"""`loadcheck compare`: what differs between loads, and why."""

from __future__ import annotations

from pathlib import Path

import click

from loadcheck.cli.ci import Forms, ci_options
from loadcheck.cli.options import json_option
from loadcheck.cli.output import print_json
from loadcheck.comparing import compare, read_subject
from loadcheck.errors import EXIT_FAIL, EXIT_PASS, BadInput, Problem
from loadcheck.show.ci.report import of_comparisons
from loadcheck.show.compare import show_comparison
from loadcheck.terminal import console


@click.command("compare", short_help="Say what differs between loads, each figure by its cause.")
@click.argument("targets", metavar="A B …", nargs=-1, required=True, type=click.Path(path_type=Path))
@ci_options
@json_option
def command(targets: tuple[Path, ...], as_json: bool, forms: Forms) -> int:
    """Compare runs, logs and predictions with the first of them: settings, versions, machine, and every figure.

    A prediction is the document of `predict --json` in a file that ends in .json. A figure that moved is explained by the changes that
    moved it, to the byte, or said to be unexplained. Exit code 0 where no figure moved and all ended alike, 1 where one did: there is no
    threshold, but a figure that physics gives a band is the same within it.
    """
    if len(targets) < 2:
        raise BadInput(Problem("compare", "one load has nothing to be compared with", "give two or more"))
    subjects = [read_subject(target) for target in targets]
    found = [compare(subjects[0], other) for other in subjects[1:]]
    forms.write(lambda: of_comparisons(found))
    if as_json:
        print_json({"same": all(each.same for each in found), "comparisons": [each.to_json() for each in found]})
    else:
        out = console()
        for number, each in enumerate(found):
            if number:
                out.rule()
            show_comparison(out, each)
    return EXIT_PASS if all(each.same for each in found) else EXIT_FAIL
