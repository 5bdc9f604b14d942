"""`loadcheck fleet`: one image and one profile on many nodes, and one verdict."""

from __future__ import annotations

from pathlib import Path

import click

from loadcheck.cli.ci import Forms, ci_options
from loadcheck.cli.options import json_option
from loadcheck.cli.output import print_json
from loadcheck.errors import BadInput, Problem
from loadcheck.terminal import console


@click.group("fleet", short_help="One image and one profile on many cards or nodes, one verdict.")
def command() -> None:
    """One image and one profile on every card or node, and one verdict on them all."""


@command.command("gather", short_help="Judge the run folders of a fleet: one verdict.")
@click.argument("target", metavar="DIR|TAR", type=click.Path(path_type=Path))
@click.option("--plan", "plan_file", metavar="FILE", type=click.Path(path_type=Path),
              help="The fleet.json that was run; default: the one in DIR.")  # fmt: skip
@click.option("--jobs", type=click.IntRange(1), help="Processes that judge; default: as many as there are cores.")
@ci_options
@json_option
def gather(target: Path, plan_file: Path | None, jobs: int | None, as_json: bool, forms: Forms) -> int:
    """Judge every run folder below DIR, or in a TAR (- reads one from stdin), as one fleet.

    Each is judged as `report` judges it, and held against the plan: nodes that are missing, doubled, late, on another card, of another
    image or lock, edited, or of a wrong clock are findings. Only a fleet of which every node passes is a pass.
    """
    from loadcheck.fleet.folders import opened
    from loadcheck.fleet.gather import gather_folder
    from loadcheck.show.ci.fleet import of_fleet
    from loadcheck.show.fleet import show_fleet

    with opened(target) as root:
        verdict = gather_folder(root, plan_file, jobs)
    if not verdict.nodes:
        raise BadInput(Problem(str(target), "holds no run folder", "name the folder that the nodes wrote into"))
    if not as_json:
        show_fleet(console(), verdict)
    forms.write(lambda: of_fleet(str(target), verdict))
    if as_json:
        print_json(verdict.to_json())
    return verdict.exit_code
