"""`loadcheck export`: write what was trained into a folder, and prove it."""

from __future__ import annotations

from pathlib import Path

import click

from loadcheck.cli.options import PATH, json_option
from loadcheck.cli.output import print_json
from loadcheck.errors import EXIT_FAIL, EXIT_PASS, BadInput, Problem
from loadcheck.exporting.export import Exported, export, verify
from loadcheck.exporting.source import read_adapter
from loadcheck.show.export import show_exported
from loadcheck.terminal import console, print_words


@click.command("export", short_help="Write trained adapters, or the merged model, and prove them.")
@click.argument("run", type=PATH)
@click.argument("target", metavar="[DIR]", required=False, type=PATH)
@click.option("--merged", is_flag=True, help="Write the whole model in 16 bits, with the adapters merged.")
@click.option("--verify", "is_check", is_flag=True, help="Check the export in RUN again; write nothing.")
@json_option
def command(run: Path, target: Path | None, merged: bool, is_check: bool, as_json: bool) -> int:
    """Write the adapters of the training RUN into DIR in peft's form, with tokenizer and template, and prove them.

    A new process opens the export with plain transformers and peft, and compares its logits with the trained model's. DIR is only kept if
    they agree within the tolerance and the base is farther away. proof.json holds the result and the SHA-256 of every file.
    `loadcheck export --verify DIR` checks it again.

    Exit codes: 0 proven, 1 not, 2 bad input, 3 this machine cannot.
    """
    _refuse(target, merged, is_check)
    out = console(stderr=as_json)

    def echo(words: str) -> None:
        print_words(out, words)

    exported: Exported = verify(run, echo) if target is None else export(read_adapter(run), target, merged, echo)
    if as_json:
        print_json(exported.to_json())
    else:
        show_exported(out, exported, is_check)
    return EXIT_PASS if exported.verdict.passed else EXIT_FAIL


def _refuse(target: Path | None, merged: bool, is_check: bool) -> None:
    """BadInput for arguments that do not go together."""
    if is_check and (target is not None or merged):
        what = "takes only the folder of an export"
        raise BadInput(Problem("command line", what, "loadcheck export --verify DIR", "--verify"))
    if not is_check and target is None:
        raise BadInput(
            Problem("command line", "is missing", "name the folder to write: loadcheck export RUN DIR", "DIR")
        )
