"""What the figures in a trouble's own words say: whether it is this trouble at all, and what to do by them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import ROUND_FLOOR, Decimal
from string import Formatter

from loadcheck.specs.trouble import Trouble
from loadcheck.units import GIB

Said = Mapping[str, str]
"""The named groups of a trouble's pattern, as a line of the log has them."""

IN_USE_SHARE = Decimal("0.05")
"""Of a card: a context alone takes less than 2 % of any card of env/gpus.toml, as doctor/gpu.py has it."""


def _of_free_memory(said: Said) -> dict[str, str] | None:
    """The largest gpu_memory_utilization that what is free allows: their ratio, rounded down to two digits."""
    free, total = Decimal(said["free"]), Decimal(said["total"])
    if total <= 0:
        return {}
    return {"utilization": str((free / total).quantize(Decimal("0.01"), ROUND_FLOOR))}


def _of_memory_in_use(said: Said) -> dict[str, str] | None:
    """Memory that was in use before the load began is a trouble only where it is more than a context."""
    if "used" not in said:
        return {}
    return {} if Decimal(said["used"]) > IN_USE_SHARE * Decimal(said["total"]) else None


def _of_freed_memory(said: Said) -> dict[str, str] | None:
    """How much was freed between two measurements; vLLM says them in bytes (0.7.2) or in GiB (later). Unknown where none was."""
    used_before, used_after = said.get("used_before"), said.get("used_after")
    earlier, later = (used_after, used_before) if used_before else (said.get("free_before"), said.get("free_after"))
    if earlier is None or later is None:
        return {}
    freed = Decimal(later) - Decimal(earlier)
    gib = freed if "." in later else freed / GIB
    return {"freed_gib": f"{gib:.2f}"} if gib > 0 else {}


_COMPUTED: Mapping[str, Callable[[Said], dict[str, str] | None]] = {
    "utilization-above-free": _of_free_memory,
    "gpu-in-use": _of_memory_in_use,
    "memory-freed-meanwhile": _of_freed_memory,
}
"""Trouble id -> figures for its advice from those of the words; None where the words are not this trouble with such figures."""


def figures_of(trouble: Trouble, said: Said) -> dict[str, str] | None:
    """The figures of a trouble's words and what follows from them; None where these are not this trouble's words."""
    computed = _COMPUTED[trouble.id](said) if trouble.id in _COMPUTED else {}
    return None if computed is None else {**said, **computed}


def remedy_for(trouble: Trouble, figures: Said) -> str:
    """What to do about a trouble: by its figures first, where the log has all that the advice needs."""
    needed = {name for _, name, _, _ in Formatter().parse(trouble.advice) if name}
    if not needed or not needed <= figures.keys():
        return trouble.remedy
    return f"{trouble.advice.format_map(figures)}; {trouble.remedy}"
