"""`loadcheck report`: a run folder shown again, also as a page."""

from __future__ import annotations

import os
from pathlib import Path

import click

from loadcheck.cli.options import json_option
from loadcheck.cli.output import print_json
from loadcheck.errors import EXIT_FAIL, EXIT_PASS, BadInput, Problem
from loadcheck.loading import Loaded, judge_folder
from loadcheck.runs.folder import FILES, PARTIAL, RESERVE
from loadcheck.runs.private import write_whole
from loadcheck.runs.redact import Redactor
from loadcheck.runs.sampler import read_samples
from loadcheck.runs.secrets import secrets
from loadcheck.show.page import run_page
from loadcheck.show.verdict import show_end, show_verdict
from loadcheck.terminal import console, print_words


@click.command("report", short_help="Show a run again: its figures, its verdict, how it ended.")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--html", type=click.Path(path_type=Path), metavar="FILE", help="Write it as a page, too: one file.")
@json_option
def command(run: Path, as_json: bool, html: Path | None) -> int:
    """Show a RUN folder again: its figures, its verdict, how it ended."""
    if run.is_file():
        raise BadInput(Problem(str(run), "a log, not a run folder", f"use: loadcheck check {run}"))
    loaded = judge_folder(run)
    if not as_json:
        show_verdict(console(), loaded.evidence, loaded.verdict)
        show_end(console(), loaded.record, loaded.folder.path)
    if html is not None:
        _write_page(html, loaded)
        if not as_json:
            print_words(console(), f"wrote {html}")
    if as_json:  # last, as an error would be the one document
        print_json(loaded.to_json())
    return EXIT_PASS if loaded.verdict.passed else EXIT_FAIL


def _refuse_target(path: Path, run: Path) -> None:
    """BadInput where writing `path` would go through a link, or over a folder, a device or a file of the run."""
    own = {name + end for name in (*FILES, RESERVE) for end in ("", PARTIAL)}
    in_run = path.parent.resolve() == run.resolve()
    if path.is_symlink():
        what = "is a link, and what it leads to would be written over"
    elif path.exists() and not path.is_file():
        what = "is a folder or a device"
    elif in_run and (path.name in own or (path.exists() and path.suffix.lower() not in (".html", ".htm"))):
        what = "is a file of the run itself"
    elif path.exists() and any(path.samefile(each) for each in run.iterdir() if each.is_file() and each != path):
        what = "is a file of the run under another name"
    else:
        return
    raise BadInput(Problem(str(path), what, "name another file, such as page.html", "--html"))


def _write_page(path: Path, loaded: Loaded) -> None:
    """BadInput where `path` cannot be written."""
    page = run_page(loaded.record, loaded.evidence, loaded.verdict, read_samples(loaded.folder.memory_path))
    _refuse_target(path, loaded.folder.path)
    try:
        write_whole(path, Redactor(secrets(os.environ)).text(page))
    except OSError as error:
        raise BadInput(Problem(str(path), error.strerror or str(error), "name a file that can be written")) from None
