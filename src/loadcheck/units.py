"""Bytes inside, GiB at the edges. What these logs print as "GB" is GiB throughout."""

from __future__ import annotations

KIB = 1024
MIB = 1024**2
GIB = 1024**3


def to_gib(num_bytes: int | float) -> float:
    return num_bytes / GIB


def from_gib(gib: float) -> int:
    """The nearest whole number of bytes; a printed "5.3541" stands for an interval, see `figures.Reading`."""
    return round(gib * GIB)


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
