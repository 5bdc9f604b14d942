"""A predicted training, for people: its peaks, what limits it, and the largest of each setting that fits."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console

from loadcheck.show.prediction import show_fits, show_term
from loadcheck.specs.training import TrainSettings
from loadcheck.terminal import print_table, print_words
from loadcheck.units import show_bytes, to_gib
from loadcheck.workloads.training import STEP, Largest, TrainPrediction


def show_training(out: Console, training: TrainPrediction, tree: bool) -> None:
    """Print the peaks, what limits the training, and with `tree` every term with its source."""
    memory = training.memory
    print_table(out, (f"{training.settings.method}: peak of", "GiB", "bytes"), "lrr",
                [(name, f"{to_gib(value):.2f}", f"{value}") for name, value in peaks_of(training)])  # fmt: skip
    parts = [f"{term.name} {show_bytes(term.num_bytes)}" for term in memory.limits][:3]
    print_words(out, f"Limited in the {memory.peak.name} by: {', '.join(parts)}")
    if tree:
        for term in (memory.peak, training.device, training.host):
            out.print()
            for depth, node in term.walk():
                show_term(out, depth, node)
    if training.settings.packing:
        print_words(out, f"Note: {packed_note(training.settings)}")
    for note in (*training.notes, *_with_engine(training)):
        print_words(out, f"Note: {note}")
    print_words(out, _room(training))
    show_fits(out, training.fits)


def peaks_of(training: TrainPrediction) -> tuple[tuple[str, int], ...]:
    """Each predicted peak, with its name."""
    memory = training.memory
    return (
        ("torch's allocator, before the trainer", memory.before.num_bytes),
        ("torch's allocator, first step", memory.first_step.num_bytes),
        ("torch's allocator, later steps", memory.later_step.num_bytes),
        ("the card", training.device.num_bytes),
        ("the host's pinned memory", training.host.num_bytes),
    )


def _with_engine(training: TrainPrediction) -> Iterator[str]:
    """How `loadcheck train` differs from the profile."""
    if training.engine is not None and training.settings.method == "sft":
        yield "this includes vLLM, as the profile does; `loadcheck train` runs SFT without it: add --no-fast-inference"


def packed_note(settings: TrainSettings) -> str:
    """The effect of packing on the predicted rows."""
    return f"packed rows are all {settings.train_seq_length} tokens long, so the memory does not depend on the data"


def _room(training: TrainPrediction) -> str:
    """What the card has left, or lacks."""
    if training.fits_with_gaps:
        return f"The card has {show_bytes(training.left_bytes)} left."
    if training.fits:
        gaps = "torch must keep giving back the gaps between its blocks, which is slow"
        return f"The card lacks {show_bytes(-training.left_bytes)}: {gaps}."
    lacking = training.needed_bytes - training.case.gpu.total_bytes
    return f"The card lacks {show_bytes(lacking)}." if lacking > 0 else "The load itself does not fit."


def show_fit_training(out: Console, largest: list[Largest]) -> None:
    """Print the largest value of each setting, what the card has left then, the cost of one step more, and the most that runs at all."""
    rows = []
    for knob in largest:
        flag, at_most = "--" + knob.setting.replace("_", "-"), "none" if knob.at_most is None else f"{knob.at_most}"
        if knob.training is None or knob.value is None or knob.one_more_bytes is None:
            rows.append((flag, "none fits", "", "", "", at_most))
            continue
        device = to_gib(knob.training.device.num_bytes)
        left = to_gib(knob.training.left_bytes)
        step = f"{STEP[knob.setting]} more: {show_bytes(knob.one_more_bytes)}"
        rows.append((flag, f"{knob.value}", f"{device:.2f}", f"{left:.2f}", step, at_most))
    print_table(out, ("setting", "largest", "peak GiB", "left", "one step", "runs up to"), "lrrrlr", rows)
    print_words(out, "Each with the other settings unchanged; the card's peak may be 1 % off. Above the largest value, torch must keep giving back "
                     "the gaps between its blocks, which is slow; above what it runs up to, it is out of memory.")  # fmt: skip
    for note in {note for knob in largest if knob.training is not None for note in _with_engine(knob.training)}:
        print_words(out, f"Note: {note}")
