"""Where the run folders of a fleet are: a directory, a mounted bucket, a tar, or a tar on stdin."""

from __future__ import annotations

import os
import shutil
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from loadcheck.errors import BadInput, Problem
from loadcheck.fleet.plan import NAME
from loadcheck.fleet.seal import REFUSED, SEAL
from loadcheck.runs.folder import FILES

MARKS = ("run.json", "load.log", REFUSED)
"""A folder with one of them is a run's, half of one, or that of a load which was not begun."""
TAKEN = frozenset((*FILES, SEAL, REFUSED, NAME))
MAX_FILE_BYTES = 1 << 30
"""Of one file of a tar; no log of a load comes near it."""


@contextmanager
def opened(target: Path, whole: bool = False) -> Iterator[Path]:
    """The directory `target`; of a tar, and of "-", a temporary one with what they hold. BadInput where it is neither.

    Args:
        whole: take every file of a tar, and not the files of runs and plans alone.
    """
    if target.is_dir():
        yield target
        return
    with TemporaryDirectory(prefix="loadcheck-fleet-") as scratch:
        _unpack(target, Path(scratch), None if whole else TAKEN)
        yield Path(scratch)


def run_folders(root: Path) -> Iterator[str]:
    """Each run folder, as a path below `root` with "/" ("." for itself), in the order of their names; no link is followed."""

    def walk(folder: Path) -> Iterator[str]:
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
        if any(entry.name in MARKS for entry in found):
            yield folder.relative_to(root).as_posix()
            return
        for entry in found:
            if entry.is_dir(follow_symlinks=False):
                yield from walk(Path(entry.path))

    return walk(root)


def _unpack(target: Path, into: Path, names: frozenset[str] | None) -> None:
    """As a stream: a tar is read once, from its beginning."""
    try:
        if str(target) == "-":
            with tarfile.open(fileobj=sys.stdin.buffer, mode="r|*") as archive:
                _take(archive, into, names)
        else:
            with target.open("rb") as file, tarfile.open(fileobj=file, mode="r|*") as archive:
                _take(archive, into, names)
    except FileNotFoundError:
        raise BadInput(Problem(str(target), "no such folder or tar", "name where the run folders are")) from None
    except (tarfile.TarError, EOFError, OSError) as error:
        raise BadInput(Problem(str(target), f"no folder and no whole tar ({error})", "name one of the two")) from None


def _take(archive: tarfile.TarFile, into: Path, names: frozenset[str] | None) -> None:
    """What is called by one of `names`, as plain files; a link, a device, and a path that leads out are left out."""
    for member in archive:
        parts = PurePosixPath(member.name).parts
        if not member.isreg() or ".." in parts or member.name.startswith("/"):
            continue
        if names is not None and parts[-1] not in names:
            continue
        if member.size > MAX_FILE_BYTES:
            raise BadInput(Problem(member.name, f"is larger than {MAX_FILE_BYTES} bytes", "leave it out of the tar"))
        source = archive.extractfile(member)
        assert source is not None
        path = into.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        with source, path.open("wb") as file:
            shutil.copyfileobj(source, file)
