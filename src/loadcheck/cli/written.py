"""Output files that a user names. They are written through no link, over no device and no file of a run, and without tokens."""

from __future__ import annotations

import os
from pathlib import Path

import click

from loadcheck.errors import BadInput, Problem, printable
from loadcheck.runs.folder import FILES, RESERVE
from loadcheck.runs.json_file import PARTIAL
from loadcheck.runs.private import write_whole
from loadcheck.runs.redact import Redactor
from loadcheck.runs.secrets import secrets

HTML = (".html", ".htm")


def write_named(path: Path, text: str, flag: str, endings: tuple[str, ...], run: Path | None) -> None:
    """Write `text` to the file of `flag`; BadInput if that is impossible, or would overwrite something else.

    Args:
        endings: a file in the run folder may only be overwritten if its name has one of these, such as ".html".
        run: a folder whose own files must not change.
    """
    what = _refusal(path, run, endings)
    if what:
        raise BadInput(Problem(str(path), what, f"name another file, such as report{endings[0]}", flag))
    try:
        write_whole(path, Redactor(secrets(os.environ)).text(text))
    except OSError as error:
        problem = Problem(str(path), error.strerror or str(error), "name a file that can be written")
        raise BadInput(problem) from None


def write_page(path: Path, page: str, run: Path | None = None) -> None:
    """Write the page of --html, and name it on stderr."""
    write_named(path, page, "--html", HTML, run)
    click.echo(f"wrote {printable(str(path))}", err=True)


def _refusal(path: Path, run: Path | None, endings: tuple[str, ...]) -> str:
    """Why `path` must not be written: a link, a folder, a device or a file of the run; empty if it may."""
    if path.is_symlink():
        return "is a link, whose target would be overwritten"
    if path.exists() and not path.is_file():
        return "is a folder or a device"
    if run is None or not run.is_dir():
        return ""
    own = {name + end for name in (*FILES, RESERVE) for end in ("", PARTIAL)}
    in_run = path.parent.resolve() == run.resolve()
    if in_run and (path.name in own or (path.exists() and path.suffix.lower() not in endings)):
        return "is a file of the run itself"
    if path.exists() and any(path.samefile(each) for each in run.iterdir() if each.is_file() and each != path):
        return "is a file of the run under another name"
    return ""
