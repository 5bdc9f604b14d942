"""The child's side of runs/ahead.py: an engine process that imports its libraries while it waits on stdin for what to load."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

from loadcheck.runs.ahead import DEVICE_ALLOWED


class Orders(threading.Thread):
    """Reads the parent's messages as they arrive.

    Attributes:
        device_allowed: set once the device may be used, or the parent is gone.
        run_dir: the folder of the load, valid once this thread has ended; None if the parent ended without naming one.
    """

    def __init__(self, stdin: int, on_run: Callable[[Path], None]) -> None:
        super().__init__(daemon=True)
        self.device_allowed = threading.Event()
        self.run_dir: Path | None = None
        self._stdin = stdin
        self._on_run = on_run

    def run(self) -> None:
        with open(self._stdin, "rb", buffering=0, closefd=False) as lines:  # unbuffered: holds no lock at exit
            if lines.readline() == f"{DEVICE_ALLOWED}\n".encode():
                self.device_allowed.set()
                self._start_run(lines.readline())
        _replace_by_null(self._stdin)
        self.device_allowed.set()

    def _start_run(self, line: bytes) -> None:
        if line.endswith(b"\n"):  # a truncated line is ignored
            self.run_dir = Path(json.loads(line))
            self._on_run(self.run_dir)


def _replace_by_null(stdin: int) -> None:
    """Make stdin /dev/null, as it is in a process that was started for its step."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, stdin)
    os.close(nothing)
