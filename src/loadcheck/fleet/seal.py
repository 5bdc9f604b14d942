"""SHA256SUMS of a run folder, written when the run has ended: half an upload and a later edit show."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from loadcheck import disk
from loadcheck.errors import BadInput, Problem
from loadcheck.runs.folder import FILES, own_file
from loadcheck.runs.private import write_whole
from loadcheck.units import show_bytes

SEAL = "SHA256SUMS"
REFUSED = "refused.json"
"""In place of run.json, where a load was not begun: {"why": […]}."""
MAX_BYTES = 65536
MAX_FILE_BYTES = 64 * 1024 * 1024
"""Of one file of a load that is judged: none comes near it, and one that does would take minutes to read."""
_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")


def sha256_of(path: Path) -> str:
    """Of a file, in hexadecimal; BadInput where it is a link or a device."""
    return disk.sha256_of(own_file(path))


def text_sha256_of(path: Path) -> bytes:
    """Of the lines of a text, whatever ends them and however many are empty; BadInput as `sha256_of`."""
    digest = sha256()
    with own_file(path).open("rb") as file:
        for line in file:
            if text := line.strip():
                digest.update(text + b"\n")
    return digest.digest()


def seal(folder: Path) -> None:
    """Write the sums of a run's files, as sha256sum does."""
    names = [name for name in FILES if (folder / name).is_file()]
    write_whole(folder / SEAL, "".join(f"{sha256_of(folder / name)}  {name}\n" for name in names))


def broken_seal(folder: Path) -> Iterator[str]:
    """What is not as it was sealed, in words; a folder that has no seal yields nothing (see `is_sealed`)."""
    with own_file(folder / SEAL).open("rb") as file:
        text = file.read(MAX_BYTES + 1).decode("utf-8", "replace")
    lines = [_LINE.fullmatch(line) for line in text.splitlines()]
    named = {line[2].removeprefix("./"): line[1] for line in lines if line}
    if len(text) > MAX_BYTES or None in lines or len(named) < len(lines):
        yield f"{SEAL} is none: it has a line that is no sum, or one twice, or more than {MAX_BYTES} bytes"
    for name in FILES:
        path = folder / name
        if name not in named:
            if path.exists():
                yield f"{name} is not in {SEAL}"
        elif not path.exists():
            yield f"{name} is missing"
        elif sha256_of(path) != named[name]:
            yield f"{name} is not what was sealed"


def refuse_foreign(folder: Path) -> None:
    """BadInput where a run's folder holds what no load leaves there: a link or a device, or a file that is too large to be read."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.is_dir(follow_symlinks=False):
                own_file(folder / entry.name)
            if entry.name in FILES and entry.stat(follow_symlinks=False).st_size > MAX_FILE_BYTES:
                what = f"has more than {show_bytes(MAX_FILE_BYTES)}"
                raise BadInput(Problem(str(folder / entry.name), what, "give a run folder as `loadcheck load` made it"))


def is_sealed(folder: Path) -> bool:
    return (folder / SEAL).is_file()
