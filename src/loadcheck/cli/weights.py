"""`loadcheck weights`: the locked weights, and whether those on this machine match."""

from __future__ import annotations

from pathlib import Path

import click

from loadcheck.cli.group import Group
from loadcheck.cli.options import PATH, json_option
from loadcheck.cli.output import print_json
from loadcheck.errors import EXIT_FAIL, EXIT_PASS, BadInput, Problem
from loadcheck.show.weights import model_json, show_listed, show_recorded, show_verified
from loadcheck.terminal import console
from loadcheck.weights.verifying import CheckedModel, folder_of, locked_models, record, verify

DIR_HELP = "Folder with the files of MODEL, such as a mirror.  [default: the cache of this machine]"


@click.group("weights", cls=Group, short_help="List, verify and record the hashes of the weights.")
def command() -> None:
    """The weights of env/weights.lock: their hashes, and whether the files on this machine match.

    A file from the hub is checked against the listing of its commit when it is downloaded, and against its hash from then on.
    """


@command.command("list", short_help="List the locked models, and which are on this machine.")
@json_option
def list_(as_json: bool) -> int:
    """List the models of env/weights.lock: how many of their files have a hash, and where they are on this machine. No file is read.

    Exit codes: 0 listed, 2 bad input.
    """
    models = [CheckedModel(name, model, folder_of(model)) for name, model in locked_models(None).items()]
    if as_json:
        print_json({"models": [model_json(model) for model in models]})
    else:
        show_listed(console(), models)
    return EXIT_PASS


@command.command("verify", short_help="Hash every file, and compare with env/weights.lock.")
@click.argument("model", required=False)
@click.option("--dir", "folder", metavar="DIR", type=PATH, help=DIR_HELP)
@json_option
def verify_(model: str | None, folder: Path | None, as_json: bool) -> int:
    """Hash every file of MODEL, or of all models that are here, and compare sizes and SHA-256 with env/weights.lock (1 s per GB).

    Exit codes: 0 all files were compared and are equal; 1 a file differs, is missing, is not in the lock, or has no hash there; 2 bad input.
    """
    checked = _verified(model, folder)
    here = [each for each in checked if each.files]
    if as_json:
        print_json({"models": [model_json(each) for each in checked]})
    else:
        show_verified(console(), checked)
    return max((each.exit_code for each in here), default=EXIT_FAIL)


@command.command("record", short_help="Write missing hashes into env/weights.lock.")
@click.argument("model")
@click.option("--dir", "folder", metavar="DIR", type=PATH, help=DIR_HELP)
@json_option
def record_(model: str, folder: Path | None, as_json: bool) -> int:
    """Write the missing sizes and hashes of MODEL into env/weights.lock, from the files on this machine.

    Known hashes are never overwritten: a file that differs is an error. Files that `load` fetched were checked against the commit's own listing;
    for another folder (--dir) you vouch yourself.

    Exit codes: 0 recorded, 2 bad input, or a file differs.
    """
    (checked,) = _verified(model, folder)
    if checked.folder is None:
        where = f"weights of {model}"
        raise BadInput(Problem(where, "are not on this machine", "load them once, or name their folder", "--dir"))
    new = record(checked)
    if as_json:
        print_json({"model": model, "recorded": [{"path": file.path, "sha256": file.sha256} for file in new]})
    else:
        show_recorded(console(), model, new)
    return EXIT_PASS


def _verified(model: str | None, folder: Path | None) -> list[CheckedModel]:
    if folder is not None and (model is None or not folder.is_dir()):
        what = "needs the MODEL that is in it" if model is None else f"{folder} is not a folder"
        raise BadInput(Problem("command line", what, "see loadcheck weights list", "--dir"))
    return [verify(name, locked, folder) for name, locked in locked_models(model).items()]
