"""Verifies a mirror: a local directory with the hashes of its files in SHA256SUMS, as `sha256sum` writes them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from loadcheck.errors import BadInput, Problem
from loadcheck.weights.lock import LockedFile, hash_files

SUMS = "SHA256SUMS"
MAX_BYTES = 1 << 20
_LINE = re.compile(r"([0-9a-f]{64}) [ *](?:\./)?(.+)")
COPY_AGAIN = "copy it again, or remove SHA256SUMS if you made the change"


def check_sums(directory: Path) -> None:
    """BadInput if the directory has a SHA256SUMS and a file is changed, missing or not listed in it. About 1 s per GB."""
    if (directory / SUMS).is_file():
        problems = tuple(_problems(directory))
        if problems:
            raise BadInput(problems)


def _problems(directory: Path) -> Iterator[Problem]:
    try:
        sums = read_sums(directory / SUMS)
        sums.pop(SUMS, None)  # `sha256sum * > SHA256SUMS` lists the file that it is about to replace
        found = {file.path: file for file in hash_files(directory) if file.path != SUMS}
    except OSError as error:
        what = f"cannot be read ({error.strerror})"
        yield Problem(str(error.filename or directory), what, "check its permissions", "model")
        return
    for path in sorted(sums.keys() | found.keys()):
        if path not in found:
            yield Problem(str(directory / path), f"is listed in {SUMS}, but missing", COPY_AGAIN, "model")
        elif path not in sums:
            yield Problem(str(directory / path), f"is not listed in {SUMS}", COPY_AGAIN, "model")
        elif sums[path].difference(found[path]) is not None:
            # Not in the words of a damaged file of the cache: the remedy for that one is another download (env/troubles.toml).
            what = f"is not the file that {SUMS} lists: its SHA-256 is {found[path].sha256}"
            yield Problem(str(directory / path), what, COPY_AGAIN, "model")


def read_sums(path: Path) -> dict[str, LockedFile]:
    """Each file, with unknown size, by its path below the folder; BadInput for an invalid line, and for a file that is listed twice."""
    with path.open("rb") as file:
        lines = file.read(MAX_BYTES).decode("utf-8", "replace").splitlines()
    sums: dict[str, LockedFile] = {}
    for number, line in enumerate(lines, 1):
        match = _LINE.fullmatch(line)
        if match is None or match[2] in sums:
            what = "is not a line of sha256sum, or lists a file a second time"
            raise BadInput(Problem(f"{path}:{number}", what, COPY_AGAIN))
        sums[match[2]] = LockedFile(path=match[2], size_bytes="unknown", sha256=match[1])
    return sums
