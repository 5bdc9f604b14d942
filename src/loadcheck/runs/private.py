"""Files and folders that only their owner can read, whatever the umask: a log may hold unexpected secrets."""

from __future__ import annotations

import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

FOLDER_MODE, FILE_MODE = 0o700, 0o600


def open_private(path: Path, mode: str, **options: Any) -> IO[Any]:
    """Like `Path.open`, but follows no link; a new file gets the mode 0600, an existing one keeps its mode."""

    def opener(name: str, flags: int) -> int:
        is_new = not os.path.lexists(name)
        descriptor = os.open(name, flags | os.O_NOFOLLOW, FILE_MODE)
        if is_new:
            os.fchmod(descriptor, FILE_MODE)  # with a umask of 0277 it could not be opened for writing again
        return descriptor

    return open(path, mode, opener=opener, **options)


def make_private(folder: Path, exist_ok: bool = False) -> None:
    """Like `Path.mkdir` with its parents; a new folder gets the mode 0700, an existing one keeps its mode."""
    is_new = not folder.exists()
    folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=exist_ok)
    if is_new:
        folder.chmod(FOLDER_MODE)


def write_whole(path: Path, text: str) -> None:
    """Write a file of the user's atomically, without following a link. OSError if that fails."""
    mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else None
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name[:100]}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            os.fchmod(file.fileno(), FILE_MODE if mode is None else mode)
        Path(name).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(name).unlink()
        raise
