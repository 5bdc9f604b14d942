"""Seals a run folder with SHA256SUMS when the run has ended, which reveals incomplete uploads and later edits."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from loadcheck import disk
from loadcheck.errors import BadInput, Problem
from loadcheck.runs.folder import FILES
from loadcheck.runs.json_file import own_file
from loadcheck.runs.private import write_whole
from loadcheck.units import show_bytes

SEAL = "SHA256SUMS"
REFUSED = "refused.json"
"""Written instead of run.json if a load was refused: {"why": […]}."""
MAX_BYTES = 65536
MAX_FILE_BYTES = 64 * 1024 * 1024
"""Limit for a file of a load that is judged: real ones are far smaller, and reading a larger one would take minutes."""
_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file in hexadecimal; BadInput if it is a link or a device."""
    return disk.sha256_of(own_file(path))


def text_sha256_of(path: Path) -> bytes:
    """The SHA-256 of the stripped, non-empty lines of a text; BadInput as in `sha256_of`."""
    digest = sha256()
    with own_file(path).open("rb") as file:
        for line in file:
            if text := line.strip():
                digest.update(text + b"\n")
    return digest.digest()


def seal(folder: Path) -> None:
    """Write the checksums of a run's files, in sha256sum's format."""
    names = [name for name in FILES if (folder / name).is_file()]
    write_whole(folder / SEAL, "".join(f"{sha256_of(folder / name)}  {name}\n" for name in names))


def broken_seal(folder: Path) -> Iterator[str]:
    """Yield, in words, each difference from the seal of a folder that has one (see `is_sealed`)."""
    with own_file(folder / SEAL).open("rb") as file:
        text = file.read(MAX_BYTES + 1).decode("utf-8", "replace")
    lines = [_LINE.fullmatch(line) for line in text.splitlines()]
    named = {line[2].removeprefix("./"): line[1] for line in lines if line}
    if len(text) > MAX_BYTES or None in lines or len(named) < len(lines):
        yield f"{SEAL} is invalid: it has an invalid or a duplicate line, or more than {MAX_BYTES} bytes"
    for name in FILES:
        path = folder / name
        if name not in named:
            if path.exists():
                yield f"{name} is not in {SEAL}"
        elif not path.exists():
            yield f"{name} is missing"
        elif sha256_of(path) != named[name]:
            yield f"{name} was changed after it was sealed"


def refuse_foreign(folder: Path) -> None:
    """BadInput if a run's folder holds what a load never leaves there: a link, a device, or an oversized file."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.is_dir(follow_symlinks=False):
                own_file(folder / entry.name)
            if entry.name in FILES and entry.stat(follow_symlinks=False).st_size > MAX_FILE_BYTES:
                what = f"has more than {show_bytes(MAX_FILE_BYTES)}"
                raise BadInput(Problem(str(folder / entry.name), what, "give a run folder as `loadcheck load` made it"))


def is_sealed(folder: Path) -> bool:
    return (folder / SEAL).is_file()
