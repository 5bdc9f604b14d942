"""An export, for people: what it is, what was proven, and notes for its users."""

from __future__ import annotations

from rich.console import Console

from loadcheck.exporting.export import Exported
from loadcheck.show.verdict import show_verdict
from loadcheck.terminal import print_words


def show_exported(out: Console, exported: Exported, is_check: bool) -> None:
    """Print the findings, the notes, and the folder."""
    proof = exported.proof
    what = (
        f"adapters of rank {proof.rank} for {proof.model}"
        if proof.form == "adapters"
        else f"{proof.model}, merged in {proof.dtype}"
    )
    print_words(out, f"{what}, trained by {proof.run}")
    for note in proof.notes:
        print_words(out, f"Note: {note}")
    show_verdict(out, None, exported.verdict)
    if is_check:
        return
    passed = exported.verdict.passed
    print_words(out, f"written to {exported.folder}" if passed else f"{exported.folder} was not written")
