"""Which cards hold a load, for people."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from loadcheck.predict.matrix import Row
from loadcheck.terminal import Name, print_table, print_words
from loadcheck.units import to_gib

COLUMNS = ("card", "GiB", "", "peak", "full batch", "left", "KV tokens", "requests", "longest")


def show_matrix(out: Console, rows: Sequence[Row]) -> None:
    """Print a row for each card, and why some do not hold the load."""
    print_table(out, COLUMNS, "lrlrrrrrr", map(_row, rows), {"fits": "green", "NO": "bold red"})
    print_words(
        out,
        "In GiB. peak: of the load or the training; full batch: with as many requests at once as allowed; left: free on the card at the larger "
        "of the two. requests: of full length that fit in the KV cache; longest: tokens of a request that fit, other settings unchanged.",
    )
    for row in rows:
        if row.outcome.why_not:
            print_words(out, f"{row.name}: {row.outcome.why_not}")


def _row(row: Row) -> tuple[str, ...]:
    outcome = row.outcome
    return (
        Name(row.name),
        f"{to_gib(row.card.total_bytes):.1f}",
        "fits" if outcome.fits else "NO",
        f"{to_gib(outcome.peak_bytes):.2f}",
        "" if outcome.full_batch_bytes is None else f"{to_gib(outcome.full_batch_bytes):.2f}",
        f"{to_gib(row.left_bytes):.2f}",
        "" if outcome.kv_tokens is None else f"{outcome.kv_tokens:,}",
        "" if outcome.max_concurrency is None else f"{outcome.max_concurrency:.1f}",
        "" if outcome.longest_tokens is None else f"{outcome.longest_tokens:,}",
    )
