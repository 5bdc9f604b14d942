"""Memory in use while a load runs, against the peak that is predicted of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import psutil

from loadcheck.device import device_used_reader
from loadcheck.units import to_gib


@dataclass(frozen=True, slots=True)
class Gauge:
    """What is in use now, and the peak to come, in bytes; `read` returns None, and `peak_bytes` is None, where that is not known."""

    read: Callable[[], int | None]
    peak_bytes: int | None

    def show(self) -> str:
        """`84.90 of 85.33 GiB`; empty where nothing is known of what is in use."""
        used = self.read()
        if used is None:
            return ""
        of_peak = "" if self.peak_bytes is None else f" of {to_gib(self.peak_bytes):.2f}"
        return f"{to_gib(used):.2f}{of_peak} GiB"


def gauge(on_cpu: bool, peak_bytes: int | None) -> Gauge:
    """Of the GPU, or of the loading process where the load runs on a CPU."""
    return Gauge(_largest_child_bytes if on_cpu else device_used_reader(), peak_bytes)


def _largest_child_bytes() -> int | None:
    """Of the resident sets of all that this process has started, the largest: the engine's. None where there is none."""
    try:
        sizes = [each.memory_info().rss for each in psutil.Process().children(recursive=True)]
    except psutil.Error:  # one of them has ended meanwhile
        return None
    return max(sizes, default=None)
