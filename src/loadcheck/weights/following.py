"""How far a download is, by what lies on the disk: the hub's own bars show nothing where there is no terminal."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loadcheck.units import show_bytes

STEP_BYTES = 256 << 20
LOOK_S = 1.0


@contextmanager
def following(directory: Path, total_bytes: int) -> Iterator[None]:
    """Say each further 256 MiB of what grows in `directory` on stderr; half a file of an earlier try counts from the start."""
    ended = threading.Event()

    def follow() -> None:
        said = -1
        while not ended.wait(LOOK_S):
            held = held_bytes(directory)
            if held // STEP_BYTES > said:
                said = held // STEP_BYTES
                print(f"hub weights: {show_bytes(held)} of {show_bytes(total_bytes)}", file=sys.stderr, flush=True)

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def held_bytes(directory: Path) -> int:
    """What lies below it, half files of the hub's client included; a file that is renamed meanwhile is not counted."""
    total = 0
    for path in directory.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue
    return total
