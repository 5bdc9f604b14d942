"""What is planned for a fleet, for people."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from loadcheck.figures import figure_specs
from loadcheck.fleet.planning import Planned, PlannedGroup
from loadcheck.terminal import Name, print_table, print_words

COLUMNS = ("card", "nodes", "an hour", "weights", "KV cache", "peak", "")
FIGURES = ("weights_bytes", "kv_cache_bytes", "peak_device_bytes")


def show_plan(out: Console, planned: Planned, folder: Path, names: Sequence[str]) -> None:
    """A row a group, why the others are refused, and what to do next."""
    print_table(out, COLUMNS, "lrrrrrl", map(_row, planned.groups), {"planned": "green", "REFUSED": "bold red"})
    print_words(out, "Predicted, in GiB; empty where it is not.")
    for each in planned.refused:
        print_words(out, f"{each.card}: {each.refused}")
    if names:
        print_words(out, f"wrote {', '.join(str(folder / name) for name in names)}")
        print_words(out, f"next: loadcheck fleet run {folder}")
    else:
        print_words(out, "Nothing was written: no card is left.")


def _row(each: PlannedGroup) -> tuple[str, ...]:
    price, prediction, specs = each.group.price_per_hour, each.prediction, figure_specs()
    values = [None if prediction is None else getattr(prediction.figures, name) for name in FIGURES]
    return (
        Name(each.card),
        f"{len(each.group.hosts) or each.group.count:,}",
        "" if price is None else f"{price:.2f}",
        *("" if value is None else specs[name].show(value) for name, value in zip(FIGURES, values, strict=True)),
        "REFUSED" if each.refused else "planned",
    )
