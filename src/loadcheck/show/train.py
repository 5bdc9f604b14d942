"""A training, for people: data, predictions, progress, verdict."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from rich.console import Console

from loadcheck.data import Data
from loadcheck.findings.finding import NOT_IN_LOG
from loadcheck.logs.event import Event
from loadcheck.logs.event_lines import PREFIX, find_event
from loadcheck.logs.events import Attached, TrainBegin, TrainData, TrainDone, TrainStep, WeightsReady
from loadcheck.show.progress import Progress
from loadcheck.show.verdict import COLUMNS, figure_rows, show_verdict
from loadcheck.specs.training import TrainJob
from loadcheck.terminal import print_table, print_words
from loadcheck.training import Trained
from loadcheck.units import show_bytes, to_gib
from loadcheck.verdict.training.rows import packed_words
from loadcheck.workloads.peaks import Peaks

LINE_S = 5.0
"""Seconds between lines of progress without a terminal."""


def show_data(out: Console, data: Data) -> None:
    """Print what was read, and unused keys."""
    print_words(out, f"{data.path}: {len(data.rows)} rows of the form {data.form}")
    if data.unused:
        print_words(out, f"Note: unused keys: {', '.join(data.unused)}")


def show_counted(out: Console, job: TrainJob, peaks: Peaks, counted: dict[str, Any]) -> None:
    """The rows in tokens, and the peaks that are predicted for the longest."""
    learned = (
        ""
        if job.settings.method == "grpo"
        else f", {counted['num_label_tokens']:,} of them learned ({counted['labels']})"
    )
    print_words(
        out,
        f"{counted['num_tokens']:,} tokens in rows of {counted['num_shortest_tokens']} to {counted['num_longest_tokens']}{learned}",
    )
    if job.settings.packing:
        print_words(out, f"Note: {packed_words(TrainData(**counted))}")
    if counted["num_cut_rows"]:
        print_words(out, f"Note: {counted['num_cut_rows']} rows are cut to {job.limit_tokens} tokens, as asked")
    show_peaks(out, peaks)


def show_peaks(out: Console, peaks: Peaks) -> None:
    """Print each predicted peak, and its notes."""
    for name, size in _peaks(peaks):
        print_words(out, f"Predicted peak of {name}: {show_bytes(size)} ({size:,} bytes)")
    if peaks.host_slack is not None:
        print_words(
            out,
            f"Note: the peak of the process is ± {peaks.host_slack:.0%}: most of it is libraries, which differ between machines",
        )
    if peaks.note:
        print_words(out, f"Note: {peaks.note}")


def _peaks(peaks: Peaks) -> Iterator[tuple[str, int]]:
    host = "the process" if peaks.host_slack is not None else "the host's pinned memory"
    for name, size in (
        ("torch's allocator", peaks.allocated_bytes),
        ("the card", peaks.device_bytes),
        (host, peaks.host_bytes),
    ):
        if size is not None:
            yield name, size


class TrainProgress(Progress):
    """Like the progress of a load; in training also step, loss, tokens per second, memory against the prediction, and the time left."""

    def __init__(self, out: Console) -> None:
        super().__init__(out)
        self.peak_bytes: int | None = None
        self._num_steps = 0
        self._shown_s = 0.0
        self._times_s: list[float] = []

    def doing(self, line: str) -> str | None:
        event = find_event(line) if PREFIX in line else None
        if isinstance(event, TrainBegin):
            self._num_steps = event.num_steps or 0
            return "training"
        if isinstance(event, TrainStep):
            return self._step(event)
        return _STAGES.get(type(event)) or super().doing(line)

    def _step(self, event: TrainStep) -> str | None:
        step, step_s = event.step or 0, event.step_s or 0.0
        self._times_s.append(step_s)
        now_s = time.monotonic()
        if not self.on_terminal and step != self._num_steps and now_s - self._shown_s < LINE_S:
            return None
        self._shown_s = now_s
        mean_s = sum(self._times_s[-10:]) / len(self._times_s[-10:])
        loss = "loss not a number" if event.loss is None else f"loss {event.loss:.4f}"
        parts = [f"step {step} of {self._num_steps}", loss]
        if event.reward is not None:
            parts.append(f"reward {event.reward:.3f}")
        if event.num_tokens and step_s:
            parts.append(f"{event.num_tokens / step_s:,.0f} tokens/s")
        parts += [*self._memory(event), f"{_duration((self._num_steps - step) * mean_s)} left"]
        return ", ".join(parts)

    def _memory(self, event: TrainStep) -> Iterator[str]:
        used = event.train_peak_allocated_bytes or event.train_host_bytes
        if used:
            against = "" if self.peak_bytes is None else f" of {to_gib(self.peak_bytes):.2f} predicted"
            yield f"{to_gib(used):.2f} GiB{against}"


_STAGES: dict[type[Event] | type[None], str] = {WeightsReady: "counting the tokens", TrainData: "importing the libraries", Attached: "preparing the training",
           TrainDone: "finishing"}  # fmt: skip


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def show_trained(out: Console, trained: Trained) -> None:
    """Print the figures, the findings, the verdict, and the folder."""
    found = trained.found
    if found is not None:
        # A load's figures that a training does not have, such as its peak, are left out.
        said = (row for row in figure_rows(found.evidence, trained.verdict) if row[2] != NOT_IN_LOG or row[4])
        rows = [*said, *peak_rows(trained)]
        print_table(out, COLUMNS, "lrrrl", rows)
    show_verdict(out, None, trained.verdict, trained.record, trained.folder.path)


def peak_rows(trained: Trained) -> Iterator[tuple[str, str, str, str, str]]:
    """A row of COLUMNS for each peak that was measured."""
    predicted = trained.predicted()
    for name, size in trained.measured().items():
        figure = name.removesuffix("_bytes") + "_gib"
        finding = next((finding for finding in trained.verdict.findings if finding.figure == figure), None)
        if size is not None:
            guess = predicted[name]
            status = "" if finding is None else str(finding.status.value)
            yield (
                figure,
                "" if guess is None else f"{to_gib(guess):.2f}",
                f"{to_gib(size):.2f}",
                "",
                status if status == "ok" else status.upper(),
            )
