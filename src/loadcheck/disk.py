"""Hashes files, syncs them to disk so that they survive a power cut, and lists folders that other processes change."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

CHUNK_BYTES = 1 << 20


def hash_of(path: Path, digest: Any = None) -> Any:
    """The hashlib hash of a file's content, by default SHA-256; OSError if it cannot be read.

    About 1 s per GB (measured with SHA instructions; some 3 s without).
    """
    digest = sha256() if digest is None else digest
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest


def read_at_most(path: Path, max_bytes: int) -> bytes:
    """The content of a file; ValueError if it is larger, so that a hostile file cannot fill memory."""
    with path.open("rb") as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise ValueError(f"it is larger than {max_bytes} bytes")
    return content


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file in hexadecimal."""
    return str(hash_of(path).hexdigest())


def sync_path(path: Path) -> None:
    """Flush a file, or a folder with its entries, to disk, so that it survives a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def walked(root: Path) -> Iterator[os.stat_result]:
    """What every file and folder below `root` is like. What another process removes or renames meanwhile is left out; Path.rglob raises then."""
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            with suppress(OSError):
                yield Path(folder, name).stat()
