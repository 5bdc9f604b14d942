"""The cache of weights: folders that appear atomically, each made once by a single process."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from loadcheck.disk import sync_path
from loadcheck.errors import BadInput, Problem, UnsupportedMachine
from loadcheck.units import show_bytes
from loadcheck.weights.lock import hash_file, hash_files, read_hashed, to_json

MANIFEST = "manifest.json"
RECORD = "recorded.json"
"""A file next to a folder of the hub's weights: the hashes of the first download, against which later ones are checked."""
REMEDY = "set LOADCHECK_CACHE to a folder that can be written to and has space"

_FULL = (errno.ENOSPC, errno.EDQUOT)
_UNUSABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG)


def weights_dir() -> Path:
    """Where weights are kept: below LOADCHECK_CACHE, else XDG_CACHE_HOME/loadcheck, else ~/.cache/loadcheck."""
    if own := os.environ.get("LOADCHECK_CACHE"):
        return Path(own).expanduser().absolute() / "weights"
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "loadcheck" / "weights"


def check_usable() -> None:
    """Create the cache's folder; BadInput if it cannot be created or is not writable, UnsupportedMachine if the disk is full."""
    folder = weights_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno in _FULL:
            raise explained(folder, error) from None
        what = f"cannot be created ({error.strerror})"
        raise BadInput(Problem(str(folder), what, REMEDY, "LOADCHECK_CACHE")) from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise BadInput(Problem(str(folder), "cannot be written to", REMEDY, "LOADCHECK_CACHE"))


def build_once(directory: Path, build: Callable[[Path], None], needed_bytes: int, keep_partial: bool = False) -> Path:
    """Return `directory` if its files match its manifest; otherwise let `build` make it in a temporary folder, then rename that.

    A complete cache may be read-only. If two processes do this at once, the second waits and uses what the first has made.

    Args:
        needed_bytes: free disk space to require beforehand; 0 if unknown.
        keep_partial: whether to keep what a failed `build` left, for the next try (to resume a download).

    Raises:
        BadInput: the cache is not writable.
        UnsupportedMachine: its disk is full, or too small.
    """
    if is_whole(directory):
        return directory
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with locked(directory):
            if not is_whole(directory):
                _check_space(directory.parent, needed_bytes)
                _build(directory, build, keep_partial)
    except OSError as error:
        raise explained(directory.parent, error) from error
    return directory


def is_whole(directory: Path) -> bool:
    """Whether every file of the manifest exists with its size and hash."""
    try:
        return all(hash_file(directory, directory / file.path) == file for file in read_hashed(directory / MANIFEST))
    except (OSError, msgspec.DecodeError):
        return False


def _build(directory: Path, build: Callable[[Path], None], keep_partial: bool) -> None:
    """Build in a temporary folder next to `directory`, then rename it; the lock is held, so no other process uses these names."""
    partial = directory.with_name(f".{directory.name}.partial")
    if not keep_partial:  # left by a process that was killed
        shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(exist_ok=True)
    try:
        build(partial)
        (partial / MANIFEST).write_bytes(to_json(hash_files(partial)))
        for path in partial.rglob("*"):
            sync_path(path)
        shutil.rmtree(directory, ignore_errors=True)  # incomplete, as it did not match its manifest
        partial.rename(directory)
        sync_path(directory.parent)
    finally:
        if not keep_partial:
            shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the lock for making `directory`; the kernel releases it when the process ends, however it ends."""
    with directory.with_name(f".{directory.name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another process that is making {directory}", file=sys.stderr, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _check_space(folder: Path, needed_bytes: int) -> None:
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < needed_bytes:
        what = f"{show_bytes(free_bytes)} of disk are free, and making the weights takes {show_bytes(needed_bytes)}"
        raise UnsupportedMachine(Problem(str(folder), what, f"free some, or {REMEDY}", "LOADCHECK_CACHE"))


def explained(folder: Path, error: OSError) -> Exception:
    """A disk error as one of ours; any other error (such as a library's own OSError) unchanged."""
    if error.errno in _FULL:
        return UnsupportedMachine(
            Problem(str(folder), "the disk is full", f"free some, or {REMEDY}", "LOADCHECK_CACHE")
        )
    if error.errno in _UNUSABLE:
        return BadInput(
            Problem(str(folder), f"cannot be used as the cache ({error.strerror})", REMEDY, "LOADCHECK_CACHE")
        )
    return error
