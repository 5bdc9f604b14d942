"""`loadcheck compare`: what differs between loads, and why."""

from __future__ import annotations

from pathlib import Path

import click

from loadcheck.cli.ci import Forms, ci_options
from loadcheck.cli.options import json_option
from loadcheck.cli.output import HTML, given_command, html_option, print_json
from loadcheck.cli.written import write_named
from loadcheck.comparing import Comparison, compare, read_subject
from loadcheck.errors import EXIT_FAIL, EXIT_PASS, BadInput, Problem
from loadcheck.runs.folder import RunFolder
from loadcheck.runs.sampler import read_samples
from loadcheck.show.ci.report import of_comparisons
from loadcheck.show.compare import show_comparison
from loadcheck.terminal import console


@click.command("compare", short_help="Say what differs between loads, each figure by its cause.")
@click.argument("targets", metavar="A B …", nargs=-1, required=True, type=click.Path(path_type=Path))
@ci_options
@html_option
@json_option
def command(targets: tuple[Path, ...], as_json: bool, html: Path | None, forms: Forms) -> int:
    """Compare runs, logs and predictions with the first of them: settings, versions, machine, and every figure.

    A prediction is the document of `predict --json` in a file that ends in .json. A figure that moved is explained by the changes that
    moved it, to the byte, or said to be unexplained. Exit code 0 where no figure moved and all ended alike, 1 where one did: there is no
    threshold, but a figure that physics gives a band is the same within it.
    """
    if len(targets) < 2:
        raise BadInput(Problem("compare", "one load has nothing to be compared with", "give two or more"))
    subjects = [read_subject(target) for target in targets]
    found = [compare(subjects[0], other) for other in subjects[1:]]
    if html is not None:
        _write_page(html, targets, found)
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


def _write_page(path: Path, targets: tuple[Path, ...], found: list[Comparison]) -> None:
    """BadInput where there are more than two loads, which no picture holds, or where the file cannot be written."""
    if len(found) > 1:
        raise BadInput(Problem("--html", f"a page is of two loads, not of {len(targets)}", "give two"))
    from loadcheck.show.page import comparison_page

    mine, other = (read_samples(RunFolder(each).memory_path) if each.is_dir() else [] for each in targets)
    write_named(path, comparison_page(found[0], (mine, other), given_command()), "--html", HTML)
