"""Makes the folder of a new run: one run has it, and there is room for its record."""

from __future__ import annotations

import os
from datetime import datetime, timezone
from itertools import count
from pathlib import Path

from loadcheck.errors import BadInput, Problem
from loadcheck.runs.folder import FILES, RESERVE, RunFolder
from loadcheck.runs.json_file import PARTIAL
from loadcheck.runs.private import make_private, open_private

RUNS = Path("runs")
RESERVE_BYTES = 65536


def new_run_id(profile: str, now: datetime) -> str:
    return f"{now.astimezone(timezone.utc):%Y%m%dT%H%M%SZ}-{profile}"


def default_folder(profile: str) -> Path:
    """The default folder of a run: runs/<time>-<profile>."""
    return RUNS / new_run_id(profile, datetime.now(timezone.utc))


def create_run_folder(path: Path | None, run_id: str) -> RunFolder:
    """Make the folder of a new run: `path`, or runs/<id>, or runs/<id>-2 if another run began in the same second.

    BadInput if `path` already holds a run, or cannot be written; this is checked before anything is loaded.
    """
    if path is not None:
        return _claim(path)
    for number in count(1):
        folder = RUNS / (run_id if number == 1 else f"{run_id}-{number}")
        try:
            make_private(folder)
        except FileExistsError:
            continue
        except OSError as error:
            raise _unwritable(folder, error) from None
        return _claim(folder)
    raise AssertionError("there is always a next number")


def refuse_taken(path: Path) -> None:
    """BadInput if `path` cannot become the folder of a new run: it is a file, or the folder of an earlier run."""
    if path.exists() and not path.is_dir():
        raise BadInput(Problem(str(path), "is a file", "give a --run-dir that is a folder, or does not exist yet"))
    if (path / "run.json").exists():
        raise _taken(path, "holds a run already")


def _claim(folder: Path) -> RunFolder:
    """Claim the folder for one run; BadInput if it holds files of another one."""
    _reserve(folder)
    claimed = RunFolder(folder)
    existing = [name for file in FILES for name in (file, file + PARTIAL) if os.path.lexists(folder / name)]
    if existing:
        claimed.release_reserve()
        what = "holds a run already" if "run.json" in existing else f"holds {', '.join(existing)} already"
        raise _taken(folder, what)
    return claimed


def _reserve(folder: Path) -> None:
    """Make a file that only one process can create, and that reserves disk space for the end of the run."""
    try:
        make_private(folder, exist_ok=True)
        reserve = open_private(folder / RESERVE, "xb")
    except FileExistsError as error:
        taken = folder.is_dir()
        raise (_taken(folder, "another load has begun in it") if taken else _unwritable(folder, error)) from None
    except OSError as error:
        raise _unwritable(folder, error) from None
    try:
        with reserve:
            reserve.write(b"\0" * RESERVE_BYTES)
    except OSError as error:
        RunFolder(folder).release_reserve()
        raise _unwritable(folder, error) from None


def _taken(folder: Path, what: str) -> BadInput:
    return BadInput(Problem(str(folder), what, "give another --run-dir; no run is overwritten"))


def _unwritable(folder: Path, error: OSError) -> BadInput:
    what = f"cannot be written ({error.strerror})"
    return BadInput(Problem(str(folder), what, "give a --run-dir that you may write to, on a disk with room"))
