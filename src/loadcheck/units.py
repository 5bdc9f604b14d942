"""Bytes inside, GiB at the edges. What these logs print as "GB" is GiB throughout."""

from __future__ import annotations

import re

KIB = 1024
MIB = 1024**2
GIB = 1024**3


def to_gib(num_bytes: int | float) -> float:
    return num_bytes / GIB


def from_gib(gib: float) -> int:
    """The nearest whole number of bytes; a printed "5.3541" stands for an interval, see `figures.Reading`."""
    return round(gib * GIB)


_AS_WRITTEN = re.compile(r"(\d{1,15}(?:\.\d{1,9})?)\s*(?:([kmg])i?b?|b)?", re.IGNORECASE)
_UNITS = {"k": KIB, "m": MIB, "g": GIB}


def parse_bytes(text: str) -> int:
    """Bytes as people write them: `15828320256`, `24GiB`, `24 GiB`, `14.7G`; "GB" is GiB, as in the logs.

    ValueError for anything else, a minus sign and a fraction of a byte among it.
    """
    match = _AS_WRITTEN.fullmatch(text.strip())
    if match is None or (match[2] is None and "." in match[1]):
        raise ValueError(f"{text!r} is no number of bytes")
    return round(float(match[1]) * _UNITS[match[2].lower()]) if match[2] else int(match[1])


def round_up(value: int, multiple: int) -> int:
    """The smallest multiple of `multiple` that is at least `value`."""
    return -(-value // multiple) * multiple


def show_bytes(num_bytes: int | float) -> str:
    """Bytes for a person, in the largest binary unit that leaves a whole part: `1.50 GiB`, `180.2 MiB`, `512 B`."""
    if abs(num_bytes) >= GIB:
        return f"{num_bytes / GIB:.2f} GiB"
    if abs(num_bytes) >= MIB:
        return f"{num_bytes / MIB:.1f} MiB"
    if abs(num_bytes) >= KIB:
        return f"{num_bytes / KIB:.1f} KiB"
    return f"{num_bytes:.0f} B"
