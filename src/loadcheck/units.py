"""Units: bytes inside, GiB in files and on screen. What these logs print as "GB" is always GiB."""

from __future__ import annotations

import re
from collections.abc import Mapping

KIB = 1024
MIB = 1024**2
GIB = 1024**3


def to_gib(num_bytes: int | float) -> float:
    return num_bytes / GIB


def gib_figures(sizes: Mapping[str, int | None]) -> dict[str, float | None]:
    """Sizes with names in `_bytes` as figures in GiB with names in `_gib`; None for those that are not known."""
    return {
        name.removesuffix("_bytes") + "_gib": None if size is None else round(to_gib(size), 2)
        for name, size in sizes.items()
    }


def from_gib(gib: float) -> int:
    """The nearest whole number of bytes; a printed "5.3541" stands for an interval, see `figures.Reading`."""
    return round(gib * GIB)


_AS_WRITTEN = re.compile(r"(\d{1,15}(?:\.\d{1,9})?)\s*(?:([kmg])i?b?|b)?", re.IGNORECASE)
_UNITS = {"k": KIB, "m": MIB, "g": GIB}


def parse_bytes(text: str) -> int:
    """Bytes as people write them: `15828320256`, `24GiB`, `24 GiB`, `14.7G`; "GB" is GiB, as in the logs.

    ValueError for anything else, including a minus sign and a fraction of a byte.
    """
    match = _AS_WRITTEN.fullmatch(text.strip())
    if match is None or (match[2] is None and "." in match[1]):
        raise ValueError(f"{text!r} is not a number of bytes")
    return round(float(match[1]) * _UNITS[match[2].lower()]) if match[2] else int(match[1])


def round_up(value: int, multiple: int) -> int:
    """The smallest multiple of `multiple` that is at least `value`."""
    return -(-value // multiple) * multiple


def show_bytes(num_bytes: int | float) -> str:
    """Bytes for people, in the largest binary unit in which they are at least 1: `1.50 GiB`, `180.2 MiB`, `512 B`."""
    if abs(num_bytes) >= GIB:
        return f"{num_bytes / GIB:.2f} GiB"
    if abs(num_bytes) >= MIB:
        return f"{num_bytes / MIB:.1f} MiB"
    if abs(num_bytes) >= KIB:
        return f"{num_bytes / KIB:.1f} KiB"
    return f"{num_bytes:.0f} B"
