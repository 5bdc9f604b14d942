"""A training before it is run, for people: its peaks, what limits it, and the most of each setting that fits."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.text import Text

from loadcheck.predict.terms import Term
from loadcheck.specs.training import TrainSettings
from loadcheck.terminal import print_item, print_table, print_words
from loadcheck.units import show_bytes, to_gib
from loadcheck.workloads.training import STEP, Largest, TrainPrediction


def show_training(out: Console, training: TrainPrediction, tree: bool) -> None:
    """The peaks, what limits, and with `tree` every term with its source."""
    memory = training.memory
    rows = [
        ("torch's allocator, before the trainer", memory.before.num_bytes),
        ("torch's allocator, first step", memory.first_step.num_bytes),
        ("torch's allocator, later steps", memory.later_step.num_bytes),
        ("the card", training.device.num_bytes),
        ("the host's pinned memory", training.host.num_bytes),
    ]
    print_table(out, (f"{training.settings.method}: peak of", "GiB", "bytes"), "lrr",
                [(name, f"{to_gib(value):.2f}", f"{value}") for name, value in rows])  # fmt: skip
    parts = [f"{term.name} {show_bytes(term.num_bytes)}" for term in memory.limits][:3]
    print_words(out, f"What limits, in the {memory.peak.name}: {', '.join(parts)}")
    if tree:
        _show_tree(out, (memory.peak, training.device, training.host))
    if training.settings.packing:
        print_words(out, f"Note: {packed_note(training.settings)}")
    for note in (*training.notes, *_with_engine(training)):
        print_words(out, f"Note: {note}")
    print_words(out, _room(training))
    out.print("\n[green]FITS[/]" if training.fits else "\n[bold red]DOES NOT FIT[/]")


def _with_engine(training: TrainPrediction) -> Iterator[str]:
    """What `loadcheck train` does otherwise than the profile."""
    if training.engine is not None and training.settings.method == "sft":
        yield "with vLLM in the card, as the profile loads; `loadcheck train` trains SFT without it: --no-fast-inference"


def packed_note(settings: TrainSettings) -> str:
    """What packing does to the rows that are predicted."""
    return f"packed, each row is {settings.train_seq_length} tokens long: the memory is that of so long a row, whatever the data"


def _room(training: TrainPrediction) -> str:
    """What is left of the card, or is lacking."""
    if training.fits_with_gaps:
        return f"The card has {show_bytes(training.left_bytes)} left."
    if training.fits:
        gaps = "torch has to give back the gaps between its blocks again and again, which takes time"
        return f"The card lacks {show_bytes(-training.left_bytes)}: {gaps}."
    lacking = training.needed_bytes - training.case.gpu.total_bytes
    return f"The card lacks {show_bytes(lacking)}." if lacking > 0 else "The load itself does not fit."


def _show_tree(out: Console, terms: tuple[Term, ...]) -> None:
    for term in terms:
        out.print()
        for depth, each in term.walk():
            source = (f"  {each.source}", "dim") if each.source else ""
            print_item(out, Text(f"{'  ' * depth}{each.num_bytes:>16}"), Text.assemble(each.name, source))


def show_fit_training(out: Console, found: list[Largest]) -> None:
    """The most of each setting, what the card has left then, what one step more of it moves, and the most that runs at all."""
    rows = []
    for each in found:
        flag, at_most = "--" + each.setting.replace("_", "-"), "none" if each.at_most is None else f"{each.at_most}"
        if each.training is None or each.value is None or each.one_more_bytes is None:
            rows.append((flag, "none fits", "", "", "", at_most))
            continue
        device = to_gib(each.training.device.num_bytes)
        left = to_gib(each.training.left_bytes)
        step = f"{STEP[each.setting]} more: {show_bytes(each.one_more_bytes)}"
        rows.append((flag, f"{each.value}", f"{device:.2f}", f"{left:.2f}", step, at_most))
    print_table(out, ("the most of", "value", "peak GiB", "left", "one step", "runs up to"), "lrrrlr", rows)
    print_words(out, "Each with the other settings as they are. The card's peak may be 1 % off. Above the value, torch gives back the gaps "
                     "between its blocks again and again, which takes time; above what it runs up to, it is out of memory.")  # fmt: skip
    for note in {note for each in found if each.training is not None for note in _with_engine(each.training)}:
        print_words(out, f"Note: {note}")
