"""The part of a page that only trainings have, and the page of a predicted training."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from loadcheck.predict import Case
from loadcheck.predict.terms import Term
from loadcheck.show.case import describe
from loadcheck.show.page.facts import shown_settings
from loadcheck.show.page.memory import Memory, Row, source_of
from loadcheck.show.page.render import render
from loadcheck.show.train import peak_rows
from loadcheck.show.training import peaks_of
from loadcheck.specs.files import flat
from loadcheck.specs.training import TrainJob, TrainSettings
from loadcheck.training import Trained
from loadcheck.units import show_bytes
from loadcheck.workloads.training import TrainPrediction

OTHER_METHOD = {"sft": ("num_generations", "max_prompt_length", "max_completion_length"), "grpo": ("train_seq_length",)}
"""Settings that a training of each method does not have."""


@dataclass(frozen=True, slots=True)
class TrainedPart:
    """The part of a training that has run.

    Attributes:
        rows: its peaks, as rows of the table of figures.
        settings: those of data, rows, batch and schedule.
        command: the command that repeats the training.
        peak_bytes: the predicted peak of what the chart shows: of the process on a CPU, else of the card.
    """

    rows: tuple[tuple[str, str, str, str, str], ...]
    settings: tuple[tuple[str, str], ...]
    command: str
    peak_bytes: int | None


def trained_part(trained: Trained) -> TrainedPart:
    """The training's part of a page; empty where the log does not tell."""
    predicted, found = trained.predicted(), trained.found
    on_cpu = found is not None and found.evidence.profile is not None and found.evidence.profile.on_cpu
    return TrainedPart(
        rows=tuple(peak_rows(trained)),
        settings=() if found is None else tuple(_settings(found.job)),
        command="" if found is None else _command(found.job, str(trained.record.profile.get("name"))),
        peak_bytes=predicted["train_peak_host_bytes" if on_cpu else "train_peak_device_bytes"],
    )


def _settings(job: TrainJob) -> Iterator[tuple[str, str]]:
    """Every setting of the job that applies to its method."""
    left_out = OTHER_METHOD[job.settings.method]
    for key, value in flat(job).items():
        name = key.rpartition(".")[2]
        if value is not None and name not in left_out:
            yield ("longest row, tokens" if name == "train_seq_length" else name), str(value)


def _command(job: TrainJob, profile: str) -> str:
    """The command with flags for every setting that is not its default."""
    defaults = {
        **flat(type(job.schedule)()),
        **flat(TrainSettings(method=job.settings.method)),
        "train_seq_length": None,
    }
    length = job.limit_tokens if job.settings.packing else None
    given = {**flat(job.settings), **flat(job.schedule), "train_seq_length": length, "packing": False}
    changed = {key: value for key, value in given.items() if value is not None and value != defaults.get(key)}
    words = ["loadcheck", "train", profile, "--data", job.data]
    if job.settings.method != "sft":
        words += ["--method", job.settings.method]
    words += [_flag(name) for name, given in (("truncate", job.truncate), ("packing", job.settings.packing)) if given]
    if job.reward_functions is not None:
        words += ["--reward-functions", job.reward_functions]
    return shlex.join([*words, *(word for key, value in changed.items() for word in (_flag(key), str(value)))])


def _flag(key: str) -> str:
    return "--" + key.replace("_", "-")


def training_page(case: Case, training: TrainPrediction, command: str) -> str:
    """A predicted training: whether it fits, its memory on the card, every term with its source.

    Args:
        command: the command that made the prediction.
    """
    memory = training.memory
    return render(
        "training",
        title=f"{training.settings.method.upper()}, {describe(case)}",
        training=training,
        lacking=training.needed_bytes - case.gpu.total_bytes,
        memory=Memory(case.gpu.total_bytes, None, tuple(_rows(training)), training.device.num_bytes, None),
        peaks=peaks_of(training),
        limits=", ".join(f"{term.name} {show_bytes(term.num_bytes)}" for term in memory.limits[:3]),
        terms=[pair for root in (memory.peak, training.device, training.host) for pair in root.walk()],
        settings=(*((key, str(value), False) for key, value in _own(training.settings)), *shown_settings(case.profile)),
        command=command,
    )


def _rows(training: TrainPrediction) -> Iterator[Row]:
    """The card's terms, with the parts of the allocator's peak instead of the peak."""
    peak: Term = training.memory.peak
    for part in training.device.parts:
        for term in peak.parts if part.num_bytes == peak.num_bytes else (part,):
            yield Row(term.name, inside=False, predicted=term.num_bytes, measured=None, source=source_of(term))


def _own(settings: TrainSettings) -> Iterator[tuple[str, object]]:
    return ((key, value) for key, value in flat(settings).items() if key not in OTHER_METHOD[settings.method])
