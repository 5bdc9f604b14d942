"""A tar of run folders, read once from its beginning, as `kubectl exec … tar c` and object stores write it."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import sys
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import IO, Any

from loadcheck.errors import BadInput, Problem
from loadcheck.fleet.plan import NAME

MAX_FILE_BYTES = 1 << 30
"""Of one file of a bundle; nothing of it comes near."""
BLOCK_BYTES = tarfile.BLOCKSIZE
CHUNK_BYTES = 1 << 20
_OPENERS: dict[bytes, Callable[[Any], Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
"""By what a file begins with. They read to its last byte and check its sums, which tarfile's own streams do not."""


def unpack(target: Path, into: Path, names: frozenset[str] | None, most_bytes: int) -> None:
    """Put the files of the tar `target`, or of the one on stdin ("-"), into a folder. BadInput where it is none, or not whole.

    Args:
        names: of the files that are taken; None for all.
        most_bytes: that are taken of one of them; where it has more, one byte more is taken, so that whoever reads it sees that.
    """
    try:
        if str(target) == "-":
            _unpack(sys.stdin.buffer, into, names, most_bytes)
        else:
            with target.open("rb") as file:
                _unpack(file, into, names, most_bytes)
    except FileNotFoundError:
        raise BadInput(Problem(str(target), "no such folder or tar", "name where the run folders are")) from None
    except (tarfile.TarError, EOFError, OSError, lzma.LZMAError, zlib.error, ValueError) as error:
        raise BadInput(Problem(str(target), f"no folder and no whole tar ({error})", "name one of the two")) from None


class _Watched:
    """A stream that knows how much of it was read, and where the last byte was that is not zero."""

    def __init__(self, source: IO[bytes]) -> None:
        self.source, self.total_bytes, self.last_nonzero = source, 0, 0

    def read(self, size: int) -> bytes:
        data = self.source.read(size)
        if rest := data.rstrip(b"\0"):
            self.last_nonzero = self.total_bytes + len(rest)
        self.total_bytes += len(data)
        return data


def _unpack(file: Any, into: Path, names: frozenset[str] | None, most_bytes: int) -> None:
    """tarfile takes a header that is cut off, or none at all, for the end: so the end is looked at here."""
    reader = file if isinstance(file, io.BufferedReader) else io.BufferedReader(file)
    start = reader.peek(6)
    opener = next((opener for magic, opener in _OPENERS.items() if start.startswith(magic)), None)
    watched: Any = _Watched(reader if opener is None else opener(reader))
    with tarfile.open(fileobj=watched, mode="r|") as archive:
        for member in archive:
            _take(archive, member, into, names, most_bytes)
        end = archive.offset
    while watched.read(CHUNK_BYTES):
        pass
    if watched.total_bytes < end + BLOCK_BYTES:
        raise tarfile.ReadError("it breaks off")
    if watched.last_nonzero > end:
        raise tarfile.ReadError("it goes on after its end: it is damaged, or several in one")


def _take(
    archive: tarfile.TarFile, member: tarfile.TarInfo, into: Path, names: frozenset[str] | None, most_bytes: int
) -> None:
    """What is called by one of `names`, as a plain file; a link, a device, and a path that leads out are left out. BadInput for a plan that is one."""
    parts = PurePosixPath(member.name).parts
    if member.isdir() or not parts or (names is not None and parts[-1] not in names):
        return
    if not member.isreg() or ".." in parts or member.name.startswith("/"):
        if parts[-1] == NAME:
            what = "is a link, or leads out of the tar, so that nobody knows what was planned"
            raise BadInput(Problem(member.name, what, "pack the file itself, or name the plan with --plan"))
        return
    path = into.joinpath(*parts)
    path.parent.mkdir(parents=True, exist_ok=True)
    source = archive.extractfile(member)
    assert source is not None
    try:
        with source, path.open("xb") as out:
            _copy(source, out, most_bytes + 1)
    except FileExistsError:
        raise tarfile.ReadError(f"it holds {member.name!r} twice") from None


def _copy(source: IO[bytes], out: IO[bytes], left_bytes: int) -> None:
    while left_bytes > 0 and (chunk := source.read(min(CHUNK_BYTES, left_bytes))):
        out.write(chunk)
        left_bytes -= len(chunk)
