"""Finds the run folders of a fleet in a directory, a mounted bucket, a tar, or a tar on stdin."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from loadcheck.fleet import tars
from loadcheck.fleet.plan import NAME
from loadcheck.fleet.seal import MAX_FILE_BYTES, REFUSED, SEAL
from loadcheck.runs.folder import FILES

MARKS = ("run.json", "load.log", REFUSED)
"""A folder with one of these files is a run folder, perhaps incomplete, or that of a load which was refused."""
UNPACKED = frozenset((*FILES, SEAL, REFUSED, NAME))
_TRY = re.compile(r"\d{8}T\d{6}\.\d{6}Z")
"""The name that `fleet node` gives the folder of a try. A folder without any of the marks is of a try that was lost before it wrote them."""


@contextmanager
def opened(target: Path, whole: bool = False) -> Iterator[Path]:
    """The directory `target`; for a tar, or "-", a temporary directory with its files. BadInput if it is neither.

    Args:
        whole: unpack every file of a tar, not only the files of runs and plans.
    """
    if target.is_dir():
        yield target
        return
    with TemporaryDirectory(prefix="loadcheck-fleet-") as scratch:
        names, most_bytes = (None, tars.MAX_FILE_BYTES) if whole else (UNPACKED, MAX_FILE_BYTES)
        tars.unpack(target, Path(scratch), names, most_bytes)
        yield Path(scratch)


def run_folders(root: Path) -> Iterator[str]:
    """Yield each run folder, as a path below `root` with "/" ("." for itself), sorted by name; no link is followed.

    Folders that cannot be opened are included, as they may hold a run, and so are folders of tries that left nothing. A run inside a run's folder
    counts, too.
    """
    waiting = [str(root)]  # no recursion, as folders may be nested arbitrarily deep
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(folder) as entries:
                found = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries)
        except OSError:
            yield Path(folder).relative_to(root).as_posix()
            continue
        if any(name in MARKS for name, _ in found) or _TRY.fullmatch(Path(folder).name):
            yield Path(folder).relative_to(root).as_posix()
        waiting += [os.path.join(folder, name) for name, is_folder in reversed(found) if is_folder]  # noqa: PTH118
