"""`loadcheck compare`: what differs between loads, and why."""

from __future__ import annotations

from pathlib import Path

import click

from loadcheck.cli.ci import CiCommand, CiReports
from loadcheck.cli.options import PATH, json_option
from loadcheck.cli.output import given_command, html_option, print_json
from loadcheck.cli.written import write_page
from loadcheck.comparing import Comparison, compare, read_subject
from loadcheck.errors import EXIT_FAIL, EXIT_PASS, BadInput, Problem
from loadcheck.runs.folder import RunFolder
from loadcheck.runs.sampler import read_samples
from loadcheck.show.ci.report import of_comparisons
from loadcheck.show.compare import show_comparison
from loadcheck.terminal import console


@click.command("compare", cls=CiCommand, short_help="Show what differs between loads, and which change moved it.")
@click.argument("targets", metavar="A B …", nargs=-1, required=True, type=PATH)
@html_option
@json_option
def command(targets: tuple[Path, ...], as_json: bool, html: Path | None, ci_reports: CiReports) -> int:
    """Compare runs, logs and predictions with the first of them: settings, versions, machine, and every figure.

    A prediction is a .json file with the document of `predict --json`. Each figure that moved is explained by the changes that moved it, to
    the byte, or reported as unexplained. There is no threshold, but figures with a physical band are equal within it.

    Exit codes: 0 no figure moved and all ended alike, 1 something moved, 2 bad input.
    """
    if len(targets) < 2:
        raise BadInput(Problem("compare", "one load has nothing to compare with", "name two or more"))
    subjects = [read_subject(target) for target in targets]
    found = [compare(subjects[0], other) for other in subjects[1:]]
    if html is not None:
        _write_page(html, targets, found)
    ci_reports.write(lambda: of_comparisons(found))
    if as_json:
        print_json({"same": all(each.same for each in found), "comparisons": [each.to_json() for each in found]})
    else:
        _show(found)
    return EXIT_PASS if all(each.same for each in found) else EXIT_FAIL


def _show(comparisons: list[Comparison]) -> None:
    out = console()
    for number, each in enumerate(comparisons):
        if number:
            out.rule()
        show_comparison(out, each)


def _write_page(path: Path, targets: tuple[Path, ...], comparisons: list[Comparison]) -> None:
    """Write the page of two loads; BadInput for more, or if the file cannot be written."""
    if len(comparisons) > 1:
        raise BadInput(Problem("--html", f"a page compares two loads, not {len(targets)}", "name two"))
    from loadcheck.show.page import comparison_page

    mine, other = (read_samples(RunFolder(each).memory_path) if each.is_dir() else [] for each in targets)
    write_page(path, comparison_page(comparisons[0], (mine, other), given_command()), *targets)
