"""SHA256SUMS of a run folder, written when the run has ended: half an upload and a later edit show."""

from __future__ import annotations

import re
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from loadcheck.runs.folder import FILES, own_file
from loadcheck.runs.private import write_whole

SEAL = "SHA256SUMS"
REFUSED = "refused.json"
"""In place of run.json, where a load was not begun: {"why": […]}."""
CHUNK_BYTES = 1 << 20
MAX_BYTES = 65536
_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")


def sha256_of(path: Path) -> str:
    """Of a file, in hexadecimal; BadInput where it is a link or a device."""
    digest = sha256()
    with own_file(path).open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def seal(folder: Path) -> None:
    """Write the sums of a run's files, as sha256sum does."""
    names = [name for name in FILES if (folder / name).is_file()]
    write_whole(folder / SEAL, "".join(f"{sha256_of(folder / name)}  {name}\n" for name in names))


def broken_seal(folder: Path) -> Iterator[str]:
    """What is not as it was sealed, in words; a folder that has no seal yields nothing (see `is_sealed`)."""
    with own_file(folder / SEAL).open("rb") as file:
        text = file.read(MAX_BYTES).decode("utf-8", "replace")
    named = {match[2].removeprefix("./"): match[1] for match in map(_LINE.fullmatch, text.splitlines()) if match}
    for name in FILES:
        path = folder / name
        if name not in named:
            if path.exists():
                yield f"{name} is not in {SEAL}"
        elif not path.exists():
            yield f"{name} is missing"
        elif sha256_of(path) != named[name]:
            yield f"{name} is not what was sealed"


def is_sealed(folder: Path) -> bool:
    return (folder / SEAL).is_file()
