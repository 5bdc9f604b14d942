"""`loadcheck fleet`: one image and one profile on many nodes, and one verdict."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import click

from loadcheck.cli.ci import CiCommand, CiReports
from loadcheck.cli.group import Group
from loadcheck.cli.options import PATH, json_option
from loadcheck.cli.output import given_command, html_option, print_json
from loadcheck.cli.written import write_page
from loadcheck.errors import EXIT_FAIL, BadInput, Problem, printable
from loadcheck.fleet.engines import write_files
from loadcheck.fleet.plan import NAME, FleetPlan, read_plan, write_plan
from loadcheck.fleet.statement import NAME as STATEMENT
from loadcheck.fleet.statement import SIGNATURE
from loadcheck.terminal import console, print_words


@click.group("fleet", cls=Group, short_help="Load on many cards or nodes, and get one verdict.")
def command() -> None:
    """Load one image and one profile on every card or node, and get one verdict for all of them."""


@command.command("gather", cls=CiCommand, short_help="Judge the run folders of all nodes as one fleet.")
@click.argument("target", metavar="DIR|TAR", type=PATH)
@click.option("--plan", "plan_file", metavar="FILE", type=PATH,
              help="The fleet.json that was run.  [default: the one in DIR]")  # fmt: skip
@click.option("--jobs", type=click.IntRange(1), help="Number of processes.  [default: one per core]")
@html_option
@json_option
def gather(
    target: Path, plan_file: Path | None, jobs: int | None, as_json: bool, html: Path | None, ci_reports: CiReports
) -> int:
    """Judge every run folder below DIR, or in a TAR (use - for stdin), as one fleet.

    Each folder is judged as by `report`, then compared with the plan. Findings are nodes that are missing, doubled, late or edited, on another
    card, with another image or lock, or with a wrong clock. A fleet passes only if every node passes.

    Exit codes: 0 the fleet passed, 1 it did not, 2 bad input.
    """
    from loadcheck.fleet.folders import opened
    from loadcheck.fleet.gather import gather_folder
    from loadcheck.show.ci.fleet import of_fleet
    from loadcheck.show.fleet import show_fleet

    with opened(target) as root:
        verdict = gather_folder(root, plan_file, jobs)
    if not verdict.nodes:
        raise BadInput(Problem(str(target), "holds no run folder", "name the folder that the nodes wrote to"))
    ci_reports.write(lambda: of_fleet(str(target), verdict))
    if not as_json:
        show_fleet(console(), verdict)
    if html is not None:
        from loadcheck.show.page import fleet_page

        write_page(html, fleet_page(str(target), verdict, given_command()), target)
    if as_json:
        print_json(verdict.to_json())
    return verdict.exit_code


@command.command("plan", short_help="Predict each card, and write the engine's files.")
@click.argument("spec_file", metavar="FLEET.toml", type=PATH)
@click.option("--out", metavar="DIR", type=PATH, help="Folder for the files.  [default: the name of the fleet]")
@click.option("--force", is_flag=True, help="Overwrite an earlier plan.")
@json_option
def plan(spec_file: Path, out: Path | None, force: bool, as_json: bool) -> int:
    """Predict the load on each card of FLEET.toml, and write the files of its engine: SkyPilot, Kubernetes, Slurm, Ray, or this host.

    A card that will not hold the model, or costs more than the cap, is left out before it is rented. docs/clouds.md has a FLEET.toml for each engine.

    Exit codes: 0 every card is planned, 1 a card is left out, 2 bad input.
    """
    from loadcheck.fleet.planning import plan_fleet
    from loadcheck.fleet.spec import FleetSpec
    from loadcheck.show.fleet_plan import show_plan
    from loadcheck.specs.files import load

    spec = load(FleetSpec, spec_file)
    folder = out or Path(spec.name)
    try:
        planned = plan_fleet(spec)
        names = () if planned.plan is None else _written(planned.plan, folder, force)
    except BadInput as error:
        raise BadInput(_in_file(problem, spec_file) for problem in error.problems) from None
    if as_json:
        print_json({**planned.to_json(), "folder": str(folder) if names else None, "files": list(names)})
    else:
        show_plan(console(), planned, folder, names)
    return planned.exit_code


def _in_file(problem: Problem, spec_file: Path) -> Problem:
    """The problem with the name of the user's file."""
    return replace(problem, where=str(spec_file)) if problem.where == "FLEET.toml" else problem


def _written(planned: FleetPlan, folder: Path, force: bool) -> tuple[str, ...]:
    """The names of the files; BadInput where there is a plan already, or the folder cannot be written."""
    if (folder / NAME).exists() and not force:
        raise BadInput(Problem(str(folder), "already holds a plan", "choose another --out, or add --force", "--out"))
    try:
        names = write_files(planned, folder)
        write_plan(planned, folder / NAME)
    except OSError as error:
        raise BadInput(
            Problem(str(folder), f"cannot be written ({error.strerror})", "choose another --out", "--out")
        ) from None
    return (NAME, *names)


@command.command("run", short_help="Run a plan: on this host, or by the engine's own command.")
@click.argument("folder", metavar="DIR", type=PATH)
@json_option
def run(folder: Path, as_json: bool) -> int:
    """Run what `fleet plan` wrote into DIR, then gather the results if they are on this machine.

    On this host, each node is a process pinned to its own GPU; a lost node is retried as often as the plan allows, and named. Other engines are
    started by their own command. Ctrl-C takes everything back, and names what it could not.

    Exit codes: 0 the fleet passed, 1 it did not, or its results are elsewhere, 2 bad input, 3 this machine cannot.
    """
    from loadcheck.fleet.gather import gather_folder
    from loadcheck.fleet.launch import launch
    from loadcheck.fleet.local import run_local
    from loadcheck.show.fleet import show_fleet

    if not (folder / NAME).exists():
        raise BadInput(Problem(str(folder), f"holds no {NAME}", "make it with loadcheck fleet plan FLEET.toml"))
    planned = read_plan(folder / NAME)
    if planned.is_of_this_host:
        _take_results(planned)
    done = (run_local if planned.is_of_this_host else launch)(planned, folder, _say)
    if not done:
        raise click.Abort
    results = Path(planned.results)
    if not results.is_dir():
        _say(f"the fleet has run; to judge it: loadcheck fleet gather RESULTS --plan {folder / NAME}")
        if as_json:
            print_json({"verdict": "skipped", "fleet": planned.name, "results": planned.results})
        return EXIT_FAIL
    verdict = gather_folder(results, folder / NAME)
    if as_json:
        print_json(verdict.to_json())
    else:
        show_fleet(console(), verdict)
    return verdict.exit_code


def _take_results(planned: FleetPlan) -> None:
    """Copy the plan into the results; BadInput if they already hold runs of it, as new ones would count as doubled."""
    results = Path(planned.results)
    held = [node.node for node in planned.nodes if (results / node.node).exists()]
    if held:
        what = f"{results} already holds runs of {len(held)} of its nodes, such as {held[0]}"
        raise BadInput(Problem("fleet.json", what, "remove them, or plan other results", "results"))
    write_plan(planned, results / NAME)


def _say(line: str) -> None:
    click.echo(printable(line), err=True)


@command.command("node", short_help="Load once, as a node of a fleet; engines call this.",
                 context_settings={"ignore_unknown_options": True})  # fmt: skip
@click.argument("results", type=PATH)
@click.argument("arguments", metavar="[PROFILE] [FLAGS OF LOAD]...", nargs=-1, type=click.UNPROCESSED)
def node(results: Path, arguments: tuple[str, ...]) -> int:
    """Load once into RESULTS/NODE/TIME, as `load` does, and seal the folder with SHA256SUMS. The variable LOADCHECK_NODE names the node.

    Exit codes: those of `load`.
    """
    from loadcheck.cli.load import command as load
    from loadcheck.fleet.node import run_node

    def load_into(folder: Path) -> int:
        code: int = load.main([*arguments, "--run-dir", str(folder)], prog_name="loadcheck load", standalone_mode=False)
        return code

    return run_node(results, load_into, os.environ)


@command.command("bundle", short_help="Sign the verdict on a fleet and every file of it.")
@click.argument("root", metavar="DIR", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "--key",
    required=True,
    metavar="FILE",
    type=PATH,
    help="Your SSH key (~/.ssh/id_ed25519, or its .pub with an agent), or a cosign key.",
)
@click.option("--plan", "plan_file", metavar="FILE", type=PATH, help="The fleet.json that was run, if DIR has none.")
@click.option("--tar", metavar="FILE", type=PATH, help="Also pack everything into one tar.")
@json_option
def bundle(root: Path, key: Path, plan_file: Path | None, tar: Path | None, as_json: bool) -> int:
    """Gather the runs below DIR, write an in-toto statement over every file (statement.json), and sign it with ssh-keygen or cosign.

    A failed fleet is bundled, too, and stated as failed.

    Exit codes: 0 the fleet passed, 1 it did not, 2 bad input, 3 this machine has no ssh-keygen or cosign.
    """
    from loadcheck.fleet.bundle import bundle as make
    from loadcheck.show.fleet import summary

    verdict = make(root, key, plan_file, tar)
    if as_json:
        print_json({**verdict.to_json(), "statement": str(root / STATEMENT), "tar": None if tar is None else str(tar)})
    else:
        out = console()
        print_words(out, f"wrote {root / STATEMENT}, {root / SIGNATURE}" + ("" if tar is None else f", {tar}"))
        print_words(out, summary(verdict))
    return verdict.exit_code


@command.command("verify", short_help="Check a bundle: its signature, every file, its verdict.")
@click.argument("target", metavar="DIR|TAR", type=PATH)
@click.option(
    "--signers",
    metavar="FILE",
    type=PATH,
    help="Trusted signers: a public key of SSH or cosign, or OpenSSH's allowed signers.",
)
@json_option
def verify(target: Path, signers: Path | None, as_json: bool) -> int:
    """Check offline that one of --signers signed this bundle: the signature, every file, and the runs judged again.

    Exit codes: 0 the fleet passed; 1 the bundle is forged, changed or incomplete, or states a failure; 2 bad input; 3 this machine has no ssh-keygen or
    cosign.
    """
    from loadcheck.fleet.bundle import verify as check
    from loadcheck.fleet.folders import opened
    from loadcheck.show.fleet import show_verified

    with opened(target, whole=True) as root:
        found = check(root, signers)
    if as_json:
        print_json(found.to_json())
    else:
        show_verified(console(), found)
    return found.exit_code
