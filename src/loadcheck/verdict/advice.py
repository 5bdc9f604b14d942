"""Uses the figures in a trouble's message: to decide whether it is this trouble at all, and to say what to do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import ROUND_FLOOR, Decimal
from string import Formatter

from loadcheck.specs.trouble import Trouble
from loadcheck.units import GIB

Groups = Mapping[str, str]
"""The named groups of a trouble's pattern, as matched in a line of the log."""

IN_USE_SHARE = Decimal("0.05")
"""The share of a card's memory above which it counts as in use: a context alone takes less than 2 % of any card of env/gpus.toml (see doctor/gpu.py)."""


def _of_free_memory(groups: Groups) -> dict[str, str] | None:
    """The largest gpu_memory_utilization that the free memory allows: free / total, rounded down to two digits."""
    free, total = Decimal(groups["free"]), Decimal(groups["total"])
    if total <= 0:
        return {}
    return {"utilization": str((free / total).quantize(Decimal("0.01"), ROUND_FLOOR))}


def _of_memory_in_use(groups: Groups) -> dict[str, str] | None:
    """Memory in use before the load is a trouble only if it is more than a context takes."""
    if "used" not in groups:
        return {}
    return {} if Decimal(groups["used"]) > IN_USE_SHARE * Decimal(groups["total"]) else None


def _of_freed_memory(groups: Groups) -> dict[str, str] | None:
    """How much was freed between two measurements, which vLLM prints in bytes (0.7.2) or GiB (later); empty if nothing was."""
    used_before, used_after = groups.get("used_before"), groups.get("used_after")
    earlier, later = (used_after, used_before) if used_before else (groups.get("free_before"), groups.get("free_after"))
    if earlier is None or later is None:
        return {}
    freed = Decimal(later) - Decimal(earlier)
    gib = freed if "." in later else freed / GIB
    return {"freed_gib": f"{gib:.2f}"} if gib > 0 else {}


_COMPUTED: Mapping[str, Callable[[Groups], dict[str, str] | None]] = {
    "utilization-above-free": _of_free_memory,
    "gpu-in-use": _of_memory_in_use,
    "memory-freed-meanwhile": _of_freed_memory,
}
"""Trouble id -> computes the figures of its advice from those of the message; None if such figures mean that it is not this trouble."""


def figures_of(trouble: Trouble, groups: Groups) -> dict[str, str] | None:
    """The figures of a trouble's message and what is computed from them; None if they mean that it is not this trouble."""
    computed = _COMPUTED[trouble.id](groups) if trouble.id in _COMPUTED else {}
    return None if computed is None else {**groups, **computed}


def remedy_for(trouble: Trouble, figures: Groups) -> str:
    """What to do about a trouble: the advice with its figures first, if the log has them all, then the general remedy."""
    needed = {name for _, name, _, _ in Formatter().parse(trouble.advice) if name}
    if not needed or not needed <= figures.keys():
        return trouble.remedy
    return f"{trouble.advice.format_map(figures)}; {trouble.remedy}"
