"""Judges the memory of a training against its prediction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from loadcheck.findings.finding import Check, Finding, Status
from loadcheck.logs.events import (
    TrainBegin,
    TrainPeak,
    TrainRows,
)
from loadcheck.units import to_gib
from loadcheck.verdict.contradictions import off_card
from loadcheck.verdict.training.evidence import TrainEvidence
from loadcheck.workloads.peaks import Peaks

UNEVEN_SHARE = 0.02
"""Tolerance on the allocated peak if rows differ in length: the largest batch may not be the predicted one."""
GRPO_SHARE = 0.005
DEVICE_SHARE = 0.01
"""Tolerance on the card's peak, as the gaps between torch's blocks are simulated: of 32 trainings on an H100 and an H200 SFT was
within 0.5 %, GRPO within 0.8 % (docs/training.md)."""


def check_memory(training: TrainEvidence) -> Iterator[Finding]:
    peaks = training.peaks
    if peaks is None:
        return
    if peaks.note:
        yield Finding(figure="train_peak", check=Check.MODEL, status=Status.SKIPPED, why=peaks.note)
    ended = training.evidence.process is not None and training.evidence.process[0] == "completed"
    for figure, predicted, measured, low, high in _peaks(training, peaks):
        if predicted is not None and measured is not None:
            from_below = not ended or (figure == "train_peak_device_gib" and _was_paged(training))
            yield _compared(figure, predicted, measured, 0 if from_below else low, high)


def _was_paged(training: TrainEvidence) -> bool:
    """Whether Windows had moved some of the card's memory to the host's RAM (verdict/contradictions.py), by an event or a step."""
    in_steps = (
        step.reserved_bytes is not None
        and step.device_used_bytes is not None
        and step.reserved_bytes > step.device_used_bytes
        for step in training.steps
    )
    return training.evidence.is_wsl and (any(in_steps) or any(off_card(training.evidence)))


def _peaks(training: TrainEvidence, peaks: Peaks) -> Iterator[tuple[str, int | None, int | None, float, float]]:
    """Figure, predicted, measured, and the shares of the prediction that are in range."""
    allocated = measured_allocated(training)
    yield ("train_peak_allocated_gib", peaks.allocated_bytes, allocated, *_allocated_band(training, peaks))
    low = (
        (1 - DEVICE_SHARE - (0 if _is_even(training) else UNEVEN_SHARE))
        * _least_share(peaks)
        * _first_step_share(training, peaks)
    )
    yield "train_peak_device_gib", peaks.device_bytes, measured_device(training), low, 1 + DEVICE_SHARE
    if peaks.host_slack is not None:
        slack = peaks.host_slack
        yield "train_peak_host_gib", peaks.host_bytes, measured_host(training), 1 - slack, 1 + slack


def _least_share(peaks: Peaks) -> float:
    """The share of the card's peak that remains if torch frees the gaps between its blocks."""
    if peaks.least_device_bytes is None or not peaks.device_bytes:
        return 1.0
    return peaks.least_device_bytes / peaks.device_bytes


def measured_allocated(training: TrainEvidence) -> int | None:
    """torch's peak over the training, counted from right before the trainer is made; None on a CPU."""
    begin = training.last(TrainBegin) or TrainBegin()
    return _largest([begin.train_peak_allocated_bytes, *(step.peak_allocated_bytes for step in training.steps)])


def measured_device(training: TrainEvidence) -> int | None:
    """The most in use on the card, counted from right before the trainer is made: torch's reserve, and the rest by the driver."""
    begin = training.last(TrainBegin) or TrainBegin()
    return _largest([begin.train_device_used_bytes, *(step.device_used_bytes for step in training.steps)])


def measured_host(training: TrainEvidence) -> int | None:
    """The peak resident set of the training process."""
    return (training.last(TrainPeak) or TrainPeak()).train_peak_host_bytes


def _largest(values: Sequence[int | None]) -> int | None:
    return max((value for value in values if value is not None), default=None)


def _allocated_band(training: TrainEvidence, peaks: Peaks) -> tuple[float, float]:
    """The range of the allocated peak, as shares of the prediction: exact if all rows have the same length."""
    if training.job.settings.method == "grpo":
        return 1 - GRPO_SHARE, 1 + GRPO_SHARE
    even = _unlearned_share(training, peaks) if _is_even(training) else 1 - UNEVEN_SHARE
    return even * _first_step_share(training, peaks), _resumed_share(training, peaks)


def _resumed_share(training: TrainEvidence, peaks: Peaks) -> float:
    """The share of the allocated peak that a resumed training may reach: a checkpoint restores the optimizer's paged states as plain tensors."""
    if training.job.resume_from is None or not peaks.allocated_bytes:
        return 1.0
    return 1 + peaks.paged_bytes / peaks.allocated_bytes


INDEX_BYTES = 8
"""The loss keeps the index of each token that is learned (cut_cross_entropy/utils.py:31-53); the prediction counts all tokens."""


def _unlearned_share(training: TrainEvidence, peaks: Peaks) -> float:
    """The share of the allocated peak that remains if no token of a batch is learned."""
    rows, settings = training.last(TrainRows), training.job.settings
    if rows is None or rows.num_label_tokens is None or rows.num_tokens is None or not peaks.allocated_bytes:
        return 1.0
    if rows.num_label_tokens >= rows.num_tokens:
        return 1.0
    return 1 - INDEX_BYTES * settings.rows * settings.row_tokens / peaks.allocated_bytes


def _first_step_share(training: TrainEvidence, peaks: Peaks) -> float:
    """The share of the allocated peak that the first step reaches, if rows are even and no later step has them all."""
    even = training.job.settings.method == "sft" and _is_even(training)
    if not even or peaks.first_step_bytes is None or not peaks.allocated_bytes or _later_step_is_full(training):
        return 1.0
    return peaks.first_step_bytes / peaks.allocated_bytes


def _later_step_is_full(training: TrainEvidence) -> bool:
    """Whether a step after the first had all batches with all rows: with few rows, the last step of an epoch has fewer."""
    settings = training.job.settings
    longest = max((step.longest_tokens or 0 for step in training.steps), default=0)
    full = settings.rows * settings.gradient_accumulation_steps * longest
    return any(step.step > 1 and step.num_tokens == full for step in training.steps)


def _is_even(training: TrainEvidence) -> bool:
    """Whether all rows have the same length, so that each batch is as large as the predicted one."""
    rows = training.last(TrainRows)
    return rows is None or rows.num_shortest_tokens == rows.num_longest_tokens


def _compared(figure: str, predicted: int, measured: int, low: float, high: float) -> Finding:
    """`low` is 0 for a peak that is known only from below: that of a training that did not finish, and of a card whose memory was paged."""
    ok = low * predicted <= measured <= high * predicted
    why = f"measured {measured:,} bytes, predicted {predicted:,}; must be {_band(low, high, predicted)}"
    return Finding(
        figure=figure, check=Check.MODEL, status=Status.OK if ok else Status.FAIL, predicted=round(to_gib(predicted), 2),
        measured=round(to_gib(measured), 2), low=round(to_gib(int(low * predicted)), 2), high=round(to_gib(int(high * predicted)), 2),
        unit="GiB", why=why, remedy="" if ok else "the stack, the model or a setting is not what the prediction was made from",
    )  # fmt: skip


SMALL_SHARE = 0.0005
"""Below this share a band is given in bytes, not in per cent."""


def _band(low: float, high: float, predicted: int) -> str:
    if not low:
        return f"at most {100 * (high - 1):.1f} % above, as the peak is known only from below"
    if low == high:
        return "equal to the byte"
    if high == 1 and low > 1 - SMALL_SHARE:
        return f"at most {(1 - low) * predicted:,.0f} bytes below, as not all tokens are learned"
    return f"within {100 * (low - 1):+.1f} to {100 * (high - 1):+.1f} %"
