"""The engine's process before it knows its load: it imports, and hears on stdin how far it may go (runs/ahead.py says what is told)."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

from loadcheck.runs.ahead import LOOKED


class Orders(threading.Thread):
    """What the parent says, as it comes.

    Attributes:
        looked: set once the device may be touched, or nobody is there any more who looks at it.
        run_dir: the folder of the load, once this thread has ended; None where the parent ended without naming one.
    """

    def __init__(self, stdin: int, on_run: Callable[[Path], None]) -> None:
        super().__init__(daemon=True)
        self.looked = threading.Event()
        self.run_dir: Path | None = None
        self._stdin = stdin
        self._on_run = on_run

    def run(self) -> None:
        with open(self._stdin, "rb", buffering=0, closefd=False) as lines:  # unbuffered: it holds no lock at the end
            if lines.readline() == f"{LOOKED}\n".encode():
                self.looked.set()
                self._take(lines.readline())
        _read_nothing_more(self._stdin)
        self.looked.set()

    def _take(self, line: bytes) -> None:
        if line.endswith(b"\n"):  # one that is cut off is no order
            self.run_dir = Path(json.loads(line))
            self._on_run(self.run_dir)


def _read_nothing_more(stdin: int) -> None:
    """Have the libraries find an empty stdin, as those of a process that was started for its step."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, stdin)
    os.close(nothing)
