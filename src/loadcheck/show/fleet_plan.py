"""The plan of a fleet, for people."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from loadcheck.figures import figure_specs
from loadcheck.fleet.plan import CPU
from loadcheck.fleet.planning import Planned, PlannedGroup
from loadcheck.terminal import Name, print_table, print_words
from loadcheck.units import show_bytes

COLUMNS = ("card", "nodes", "per hour", "weights", "KV cache", "peak", "")
FIGURES = ("weights_bytes", "kv_cache_bytes", "peak_device_bytes")

_SOURCES = {
    "assumed": "The swap space assumes {} of available RAM on each node; set ram_available_gib in [[nodes]] if it is another.",
    "this machine": "The swap space follows from this machine's RAM, {} available now.",
    "FLEET.toml": "The swap space follows from FLEET.toml: {} of RAM available on each node.",
}


def show_plan(out: Console, planned: Planned, folder: Path, names: Sequence[str]) -> None:
    """Print a row for each group, why cards are refused, and the next command."""
    print_table(out, COLUMNS, "lrrrrrl", map(_row, planned.groups), {"planned": "green", "REFUSED": "bold red"})
    print_words(out, "Predicted, in GiB; empty if not predicted.")
    for words in dict.fromkeys(
        _ram(group) for group in planned.groups if group.prediction is not None and group.card != CPU
    ):
        print_words(out, words)
    for group in planned.refused:
        print_words(out, f"{group.card}: {group.refused}")
    if names:
        print_words(out, f"wrote {', '.join(str(folder / name) for name in names)}")
        print_words(out, f"next: loadcheck fleet run {folder}")
    else:
        print_words(out, "Nothing was written: no card is left.")


def _ram(group: PlannedGroup) -> str:
    return _SOURCES[group.ram.source].format(show_bytes(group.ram.num_bytes))


def _row(group: PlannedGroup) -> tuple[str, ...]:
    price, prediction, specs = group.group.price_per_hour, group.prediction, figure_specs()
    values = [None if prediction is None else getattr(prediction.figures, name) for name in FIGURES]
    return (
        Name(group.card),
        f"{len(group.group.hosts) or group.group.count:,}",
        "" if price is None else f"{price:.2f}",
        *("" if value is None else specs[name].show(value) for name, value in zip(FIGURES, values, strict=True)),
        "REFUSED" if group.refused else "planned",
    )
