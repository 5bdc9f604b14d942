"""Memory in use while a load runs, against its predicted peak."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import psutil

from loadcheck.device import device_used_reader
from loadcheck.units import to_gib


@dataclass(frozen=True, slots=True)
class Gauge:
    """Memory in use and the predicted peak, in bytes; None if unknown."""

    read: Callable[[], int | None]
    peak_bytes: int | None

    def show(self) -> str:
        """`84.90 of 85.33 GiB`; empty if the memory in use is unknown."""
        used = self.read()
        if used is None:
            return ""
        of_peak = "" if self.peak_bytes is None else f" of {to_gib(self.peak_bytes):.2f}"
        return f"{to_gib(used):.2f}{of_peak} GiB"


def gauge(on_cpu: bool, peak_bytes: int | None) -> Gauge:
    """The gauge of the GPU, or on the CPU of the loading process."""
    return Gauge(_largest_child_bytes if on_cpu else device_used_reader(), peak_bytes)


def _largest_child_bytes() -> int | None:
    """The largest resident set of this process's descendants: the engine's. None without any."""
    try:
        sizes = [process.memory_info().rss for process in psutil.Process().children(recursive=True)]
    except psutil.Error:  # one of them has ended meanwhile
        return None
    return max(sizes, default=None)
