"""The settings that fit, for people."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console

from loadcheck.predict.fit import Fit
from loadcheck.predict.search import Proposal
from loadcheck.specs.profile import Profile
from loadcheck.terminal import escape, print_table, print_whole, print_words
from loadcheck.units import to_gib


def show_fit(out: Console, fit: Fit, command: Callable[[Profile], str]) -> None:
    """Print the settings that fit, best first, the `command` that loads the best, the effect of each knob and the edges; or what would fit."""
    if fit.proposals:
        print_table(out, PROPOSAL, "r" * len(PROPOSAL), map(_proposal_row, fit.proposals))
        print_words(
            out,
            "In GiB. peak: of a load that answers once; full batch: with all sequences running at once; left: free on the card then.",
        )
        out.print("\nBest:", markup=False)
        print_whole(out, f"  {command(fit.proposals[0].profile)}")
        out.print("\nEffect of one step of each setting on the best, in GiB:", markup=False)
        knobs = (
            (knob.change, f"{to_gib(knob.peak_bytes):+.2f}", f"{to_gib(knob.kv_cache_bytes):+.2f}")
            for knob in fit.knobs
        )
        print_table(out, ("setting", "peak", "KV cache"), "lrr", knobs)
    else:
        out.print("[bold red]NOTHING FITS[/] with these settings. What would fit, with the flags to append to yours:")
        for way in fit.would_fit or ("nothing: no smaller rank, no other targets, no larger known card",):
            print_whole(out, f"  {way}")
    for edge in fit.edges:
        out.print(f"Edge: {escape(edge)}")


PROPOSAL = ("length", "utilization", "sequences", "concurrency", "KV GiB", "peak", "full batch", "left")


def _proposal_row(proposal: Proposal) -> tuple[str, ...]:
    figures, profile = proposal.prediction.figures, proposal.profile
    return (
        f"{profile.max_seq_length:,}",
        f"{profile.gpu_memory_utilization:.2f}",
        f"{figures.max_num_seqs}",
        f"{figures.max_concurrency:.2f}x",
        f"{to_gib(figures.kv_cache_bytes or 0):.2f}",
        f"{to_gib(figures.peak_device_bytes or 0):.2f}",
        f"{to_gib(proposal.prediction.memory.largest_bytes):.2f}",
        f"{to_gib(proposal.headroom_bytes):.2f}",
    )
