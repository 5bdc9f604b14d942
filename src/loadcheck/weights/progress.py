"""Reports a download's progress by the bytes on disk, as the hub client's progress bars need a terminal."""

from __future__ import annotations

import stat
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loadcheck.disk import walked
from loadcheck.units import show_bytes

STEP_BYTES = 256 << 20
POLL_S = 1.0


@contextmanager
def reporting_progress(directory: Path, total_bytes: int) -> Iterator[None]:
    """Print to stderr each time `directory` has grown by 256 MiB; partial files of an earlier try count from the start."""
    ended = threading.Event()

    def follow() -> None:
        num_reported = -1
        while not ended.wait(POLL_S):
            present = present_bytes(directory)
            if present // STEP_BYTES > num_reported:
                num_reported = present // STEP_BYTES
                print(f"hub weights: {show_bytes(present)} of {show_bytes(total_bytes)}", file=sys.stderr, flush=True)

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def present_bytes(directory: Path) -> int:
    """The bytes of all files below a directory, including the hub client's partial files; a file that is just being renamed is skipped."""
    return sum(found.st_size for found in walked(directory) if stat.S_ISREG(found.st_mode))
