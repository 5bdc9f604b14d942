"""Output files that a user names. They are written through no link, over no device and no file of a run, and without tokens."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import click

from loadcheck.errors import BadInput, Problem, printable
from loadcheck.runs.folder import FILES, RESERVE
from loadcheck.runs.json_file import PARTIAL
from loadcheck.runs.private import write_whole
from loadcheck.runs.redact import Redactor
from loadcheck.runs.secrets import secrets

HTML = (".html", ".htm")


def write_named(path: Path, text: str, flag: str, endings: tuple[str, ...], inputs: Iterable[Path]) -> None:
    """Write `text` to the file of `flag`; BadInput if that is impossible, or would overwrite something else.

    Args:
        endings: a file in a run folder may only be overwritten if its name has one of these, such as ".html".
        inputs: what the command reads: files, and folders whose own files must not change.
    """
    try:
        if what := refusal(path, endings, inputs):
            raise BadInput(Problem(str(path), what, f"name another file, such as report{endings[0]}", flag))
        write_whole(path, Redactor(secrets(os.environ)).text(text))
    except OSError as error:
        problem = Problem(str(path), error.strerror or str(error), "name a file that can be written")
        raise BadInput(problem) from None


def write_page(path: Path, page: str, *inputs: Path) -> None:
    """Write the page of --html, and name it on stderr."""
    write_named(path, page, "--html", HTML, inputs)
    click.echo(f"wrote {printable(str(path))}", err=True)


def refusal(path: Path, endings: tuple[str, ...], inputs: Iterable[Path]) -> str:
    """Why `path` must not be written; empty if it may. The arguments are those of `write_named`."""
    return _kind(path) or next(filter(None, (_of_input(path, read, endings) for read in inputs)), "")


def _kind(path: Path) -> str:
    """Why `path` must not be written: a link, a folder or a device; empty if it may."""
    if path.is_symlink():
        return "is a link, whose target would be overwritten"
    return "is a folder or a device" if path.exists() and not path.is_file() else ""


def _of_input(path: Path, read: Path, endings: tuple[str, ...]) -> str:
    """Why `path` must not be written: it is a file that the command reads, or one of its run folder; empty if it may."""
    if read.is_file():
        return "is a file that this command reads" if path.exists() and path.samefile(read) else ""
    if not read.is_dir():
        return ""
    names = {name + end for name in (*FILES, RESERVE) for end in ("", PARTIAL)}
    within = read.resolve() in path.resolve().parents
    if within and (path.name in names or (path.exists() and path.suffix.lower() not in endings)):
        return "is a file of the run itself"
    if path.exists() and any(path.samefile(own) for own in read.iterdir() if own.is_file() and own != path):
        return "is a file of the run under another name"
    return ""
