"""The cache of weights: folders that are whole or not there, made once, by one process, whatever the others do."""

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
from loadcheck.weights.lock import LockedFile, hash_file, hash_files, to_json

MANIFEST = "manifest.json"
RECORD = "recorded.json"
"""Beside a folder of the hub's weights: what was seen at the first download, and is checked ever after."""
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
    """Make the cache's folder; BadInput where that cannot be done or nothing can be written there, UnsupportedMachine for a full disk."""
    folder = weights_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno in _FULL:
            raise _explained(folder, error) from None
        what = f"cannot be created ({error.strerror})"
        raise BadInput(Problem(str(folder), what, REMEDY, "LOADCHECK_CACHE")) from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise BadInput(Problem(str(folder), "cannot be written to", REMEDY, "LOADCHECK_CACHE"))


def build_once(directory: Path, build: Callable[[Path], None], needed_bytes: int, keep_partial: bool = False) -> Path:
    """`directory`, whole: as it is where its files are those of its manifest, else made by `build` in a folder beside it.

    A cache that is whole may be read-only. Two processes at once: the second waits, and finds it made.

    Args:
        needed_bytes: free disk to ask for beforehand; 0 where it is not known.
        keep_partial: whether what a failed `build` left is there for the next one (a download that goes on).

    Raises:
        BadInput: the cache cannot be written to.
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
        raise _explained(directory.parent, error) from error
    return directory


def is_whole(directory: Path) -> bool:
    """Whether every file of the manifest is there with its size and hash."""
    try:
        manifest = msgspec.json.decode((directory / MANIFEST).read_bytes(), type=tuple[LockedFile, ...])
        return all(hash_file(directory, directory / file.path) == file for file in manifest)
    except (OSError, msgspec.DecodeError):
        return False


def _build(directory: Path, build: Callable[[Path], None], keep_partial: bool) -> None:
    """Make everything beside `directory`, then give it its name; the lock is held, so nobody else uses these names."""
    beside = directory.with_name(f".{directory.name}.partial")
    if not keep_partial:  # of a process that was killed
        shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(exist_ok=True)
    try:
        build(beside)
        (beside / MANIFEST).write_bytes(to_json(hash_files(beside)))
        for path in beside.rglob("*"):
            sync_path(path)
        shutil.rmtree(directory, ignore_errors=True)  # not whole, or we would not be here
        beside.rename(directory)
        sync_path(directory.parent)
    finally:
        if not keep_partial:
            shutil.rmtree(beside, ignore_errors=True)


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Be the one process that makes `directory`, beside which the lock lies; the system lets go of it when the process ends, however it ends."""
    with directory.with_name(f".{directory.name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another process that makes {directory}", file=sys.stderr, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _check_space(folder: Path, needed_bytes: int) -> None:
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < needed_bytes:
        what = f"{show_bytes(free_bytes)} of disk are free, and making the weights takes {show_bytes(needed_bytes)}"
        raise UnsupportedMachine(Problem(str(folder), what, f"free some, or {REMEDY}", "LOADCHECK_CACHE"))


def _explained(folder: Path, error: OSError) -> Exception:
    """An error of the disk in words; any other (a library's own OSError) as it is."""
    if error.errno in _FULL:
        return UnsupportedMachine(
            Problem(str(folder), "the disk is full", f"free some, or {REMEDY}", "LOADCHECK_CACHE")
        )
    if error.errno in _UNUSABLE:
        return BadInput(
            Problem(str(folder), f"cannot be used as the cache ({error.strerror})", REMEDY, "LOADCHECK_CACHE")
        )
    return error
