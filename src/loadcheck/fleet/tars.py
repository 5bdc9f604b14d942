"""Unpacks a tar of run folders in one streaming pass, as `kubectl exec … tar c` and object stores write it."""

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
"""Limit per file of a bundle; real files are far smaller."""
BLOCK_BYTES = tarfile.BLOCKSIZE
CHUNK_BYTES = 1 << 20
_OPENERS: dict[bytes, Callable[[Any], Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
"""Decompressors by magic number. They read to the last byte and verify checksums, which tarfile's own streams do not."""


def unpack(target: Path, into: Path, names: frozenset[str] | None, most_bytes: int) -> None:
    """Unpack the tar `target`, or the one on stdin ("-"), into a folder. BadInput if it is not a tar, or truncated.

    Args:
        names: the names of the files to unpack; None for all.
        most_bytes: the limit per file; of a larger file one byte more is unpacked, so that later readers notice.
    """
    try:
        if str(target) == "-":
            _unpack(sys.stdin.buffer, into, names, most_bytes)
        else:
            with target.open("rb") as file:
                _unpack(file, into, names, most_bytes)
    except FileNotFoundError:
        raise BadInput(Problem(str(target), "no such folder or tar", "give the path of the run folders")) from None
    except (tarfile.TarError, EOFError, OSError, lzma.LZMAError, zlib.error, ValueError) as error:
        what = f"neither a folder nor a whole tar ({error})"
        raise BadInput(Problem(str(target), what, "give one of the two")) from None


class _Watched:
    """A stream that tracks how much was read, and the position of the last nonzero byte."""

    def __init__(self, source: IO[bytes]) -> None:
        self.source, self.total_bytes, self.last_nonzero = source, 0, 0

    def read(self, size: int) -> bytes:
        data = self.source.read(size)
        if rest := data.rstrip(b"\0"):
            self.last_nonzero = self.total_bytes + len(rest)
        self.total_bytes += len(data)
        return data


def _unpack(file: Any, into: Path, names: frozenset[str] | None, most_bytes: int) -> None:
    """Unpack a stream, and check its end, as tarfile takes a truncated or missing header for the end of the archive."""
    reader = file if isinstance(file, io.BufferedReader) else io.BufferedReader(file)
    start = reader.peek(6)
    opener = next((opener for magic, opener in _OPENERS.items() if start.startswith(magic)), None)
    watched: Any = _Watched(reader if opener is None else opener(reader))
    with tarfile.open(fileobj=watched, mode="r|") as archive:
        for member in archive:
            _extract(archive, member, into, names, most_bytes)
        end = archive.offset
    while watched.read(CHUNK_BYTES):
        pass
    if watched.total_bytes < end + BLOCK_BYTES:
        raise tarfile.ReadError("it is truncated")
    if watched.last_nonzero > end:
        raise tarfile.ReadError("there is data after its end: it is damaged, or several tars in one")


def _extract(
    archive: tarfile.TarFile, member: tarfile.TarInfo, into: Path, names: frozenset[str] | None, most_bytes: int
) -> None:
    """Extract a member with one of `names` as a regular file. Links, devices and paths that lead out of the tar are skipped; BadInput if the plan is one."""
    parts = PurePosixPath(member.name).parts
    if member.isdir() or not parts or (names is not None and parts[-1] not in names):
        return
    if not member.isreg() or ".." in parts or member.name.startswith("/"):
        if parts[-1] == NAME:
            what = "is a link, or leads out of the tar, so the plan is unknown"
            raise BadInput(Problem(member.name, what, "pack the file itself, or give the plan with --plan"))
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
