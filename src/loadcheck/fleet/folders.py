"""Where the run folders of a fleet are: a directory, a mounted bucket, a tar, or a tar on stdin."""

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
"""A folder with one of them is a run's, half of one, or that of a load which was not begun."""
TAKEN = frozenset((*FILES, SEAL, REFUSED, NAME))
_BEGUN = re.compile(r"\d{8}T\d{6}\.\d{6}Z")
"""What `fleet node` calls the folder of a try: one without any of the marks was lost before it could write them."""


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
        names, most_bytes = (None, tars.MAX_FILE_BYTES) if whole else (TAKEN, MAX_FILE_BYTES)
        tars.unpack(target, Path(scratch), names, most_bytes)
        yield Path(scratch)


def run_folders(root: Path) -> Iterator[str]:
    """Each run folder, as a path below `root` with "/" ("." for itself), in the order of their names; no link is followed.

    So is each folder that cannot be opened, as nobody knows what is in it, and that of a try which left nothing. A run inside a run's folder
    is one more.
    """
    waiting = [str(root)]  # no recursion, as a folder may be as deep as it likes
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(folder) as entries:
                found = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries)
        except OSError:
            yield Path(folder).relative_to(root).as_posix()
            continue
        if any(name in MARKS for name, _ in found) or _BEGUN.fullmatch(Path(folder).name):
            yield Path(folder).relative_to(root).as_posix()
        waiting += [os.path.join(folder, name) for name, is_folder in reversed(found) if is_folder]  # noqa: PTH118
