"""Judges a training: its memory against the prediction, and the silent faults that make a good-looking run worthless."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import mean, variance

from loadcheck.findings.evidence import Evidence
from loadcheck.findings.finding import NOT_IN_LOG, Check, Finding, Status, Verdict, run_finding
from loadcheck.logs.event import Event, EventT, name_of
from loadcheck.logs.events import (
    Attached,
    Device,
    Done,
    Imported,
    Loaded,
    Rows,
    Started,
    TrainBegin,
    TrainData,
    TrainDone,
    TrainPeak,
    TrainRows,
    WeightsLoaded,
    WeightsReady,
)
from loadcheck.runs.steps import Step
from loadcheck.specs.training import TrainJob
from loadcheck.units import to_gib
from loadcheck.verdict.card import check_card
from loadcheck.verdict.contradictions import off_card
from loadcheck.verdict.diagnosis import check_diagnosis
from loadcheck.verdict.events import check_events
from loadcheck.verdict.model import check_model
from loadcheck.verdict.needed import check_needed
from loadcheck.verdict.records import Records, check_records, check_steps
from loadcheck.verdict.run import check_adapter_bytes, process_finding
from loadcheck.verdict.shape import check_errors
from loadcheck.verdict.stack import check_stack
from loadcheck.workloads.peaks import Peaks

LEARNED_WORDS = {
    "assistant": "the assistant's",
    "text": "of plain texts all are",
    "all": "all, as the template does not tell the assistant's",
}
"""Which tokens are learned, by the event's value (stacks/rows.py: Learned)."""
EVENTS: tuple[type[Event], ...] = (WeightsReady, TrainData, Attached, TrainRows, TrainBegin, TrainDone, TrainPeak, Done)
"""The events that every training prints (stacks/trainer.py, engines/training.py)."""
EVENTS_ON_GPU: tuple[type[Event], ...] = (Imported, Device, Loaded)
EVENTS_ON_CPU: tuple[type[Event], ...] = (Started, WeightsLoaded)
"""Those of its load (stacks/unsloth_vllm/engine.py, stacks/transformers_cpu/engine.py)."""
AGAIN = "go on from its newest checkpoint with `loadcheck train --resume RUN`; without one (--save-steps), train again"
MIN_STEPS = 8
"""Over fewer steps the loss tells nothing: batches differ by more than is learned."""
NOISE_ERRORS = 2
"""Standard errors by which the loss of packed rows may rise without meaning anything: a row may begin in the middle of an example, and some hold
little that is learned. Over 46 rows of 64 tokens (examples/glossary.jsonl) it rose by 0.18, as the last rows are harder: without training by 0.73."""
UNEVEN_SHARE = 0.02
"""Tolerance on the allocated peak if rows differ in length: the largest batch may not be the predicted one."""
GRPO_SHARE = 0.005
DEVICE_SHARE = 0.01
"""Tolerance on the card's peak, as the gaps between torch's blocks are simulated: of 32 trainings on an H100 and an H200 SFT was
within 0.5 %, GRPO within 0.8 % (docs/training.md)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainEvidence:
    """What a judgement of a training looks at.

    Attributes:
        evidence: that of its log, as for a load.
        steps: the steps in steps.jsonl.
        peaks: predicted for the run's own longest batch; None if the run had no batch.
        records: what the other files of the run folder say of it; None if they are not known.
    """

    evidence: Evidence
    job: TrainJob
    steps: Sequence[Step]
    peaks: Peaks | None
    records: Records | None = None

    def last(self, kind: type[EventT]) -> EventT | None:
        return self.evidence.attempt.last(kind)


def judge_training(found: TrainEvidence) -> Verdict:
    """All findings on the training; a single failure fails it."""
    return Verdict(tuple(_findings(found)))


def _findings(found: TrainEvidence) -> Iterator[Finding]:
    evidence = found.evidence
    assert evidence.process is not None
    yield process_finding(*evidence.process, again=AGAIN)
    yield from check_diagnosis(evidence)
    yield from check_stack(evidence)
    yield from check_card(evidence)
    yield from check_model(evidence)
    yield from check_events(evidence)
    if (attached := found.last(Attached)) is not None:
        yield from check_adapter_bytes(attached)
    yield from check_steps(evidence, found.job, found.steps)
    if found.records is not None:
        yield from check_records(evidence, found.job, found.records)
    if evidence.process[0] == "completed":
        yield from _missing_events(found)
        yield from check_errors(evidence)  # otherwise the findings `process` and the diagnosis tell why it ended
    if (rows := found.last(TrainRows)) is not None:
        yield from _rows(found, rows)
    if (done := found.last(TrainDone)) is not None:
        yield from _trained(found, done)
    yield from _losses(found)
    yield from _memory(found)


def _missing_events(found: TrainEvidence) -> Iterator[Finding]:
    profile = found.evidence.profile
    of_load = EVENTS_ON_CPU if profile is not None and profile.on_cpu else EVENTS_ON_GPU
    for kind in (*of_load, *EVENTS):
        if found.last(kind) is None:
            why = f"the process ended by itself, but its event `{name_of(kind)}` is not in the log"
            yield run_finding(name_of(kind), False, why, "see the end of load.log")
    yield from check_needed(found.evidence)


# ------------------------------------------------------------------------------------------------------------------ the rows


def _rows(found: TrainEvidence, rows: Rows) -> Iterator[Finding]:
    """No row was cut silently, there are labels, each answer's end is learned, and the tokens equal those counted before."""
    num_rows, num_cut = rows.num_rows, rows.num_cut_rows
    if num_rows is None or num_cut is None:
        yield run_finding("rows", None, "the number of rows, and of rows that were cut", "")
        return
    packing = found.job.settings.packing
    yield _packed(found, rows) if packing else _cut(found, num_rows, num_cut)
    counted = found.last(TrainData)
    if counted is not None:
        same = all(getattr(rows, name) == getattr(counted, name) for name in _ROW_FIELDS)
        yield run_finding("template", same, "the trainer's tokenizer makes the same tokens and labels as the model's own",
                    "the engine changed the tokenizer or its template: train with the model's own")  # fmt: skip
    if found.job.settings.method == "sft":
        num_unended = rows.num_unended_rows if packing else num_cut
        yield from _labels(rows, None if num_unended is None else num_rows - num_unended)


_ROW_FIELDS = tuple(Rows.__annotations__)
"""The fields of both events, without their time."""


def _cut(found: TrainEvidence, num_rows: int, num_cut: int) -> Finding:
    cut_words = (
        "no row was cut"
        if not num_cut
        else f"{num_cut} of {num_rows} rows were cut to {found.job.limit_tokens} tokens, as asked"
    )
    ok = not num_cut or found.job.truncate
    return run_finding("rows", ok, f"{num_rows} rows: {cut_words}", "raise --max-seq-length, or give --truncate")


def _packed(found: TrainEvidence, rows: Rows) -> Finding:
    """Whether the packed rows are full, in every step; the finding also tells what packing split and left out."""
    length, num_packed, num_tokens = found.job.limit_tokens, rows.num_packed_rows, rows.num_tokens
    odd = [step for step in found.steps if not _is_full(step, length)]
    why = f"{packed_words(rows)}; {len(found.steps) - len(odd)} of {len(found.steps)} steps had full rows alone"
    full = (
        None
        if num_packed is None or num_tokens is None
        else num_packed > 0 and num_tokens == num_packed * length and not odd
    )
    return run_finding("rows", full, why, "the trainer got other rows than those that were packed: train again")


def _is_full(step: Step, length: int) -> bool:
    """Whether all rows of a step had this length; a step whose tokens are not known may have had others."""
    return step.longest_tokens == length and step.num_tokens is not None and step.num_tokens % length == 0


def _shown(count: int | None) -> str:
    return f"({NOT_IN_LOG})" if count is None else f"{count:,}"


def packed_words(rows: Rows) -> str:
    """What packing did with the data's rows."""
    counts = (
        rows.num_rows,
        rows.num_packed_rows,
        rows.num_longest_tokens,
        rows.num_split_rows,
        rows.num_left_out_tokens,
        rows.num_unended_rows,
    )
    num, packed, length, split, left_out, unended = map(_shown, counts)
    return (
        f"{num} examples packed into {packed} rows of {length} tokens; examples that go on in the next row: {split}; tokens left out, as they "
        f"fill no row: {left_out}; ends not learned: {unended}"
    )


def _labels(rows: Rows, num_whole: int | None) -> Iterator[Finding]:
    """`num_whole` is the number of rows whose end is in them; None if it is not known."""
    num_labels, num_tokens, num_ended = rows.num_label_tokens, rows.num_tokens, rows.num_ended_rows
    whose = LEARNED_WORDS.get(rows.labels or "all", LEARNED_WORDS["all"])
    learned = None if num_labels is None or num_tokens is None else 0 < num_labels <= num_tokens
    yield run_finding("labels", learned, f"{_shown(num_labels)} of {_shown(num_tokens)} tokens are learned: {whose}",
                "every label is masked: see the roles of the data")  # fmt: skip
    ended = None if num_ended is None or num_whole is None else num_ended >= num_whole
    yield run_finding("end of answers", ended, f"{_shown(num_ended)} rows end with a token that ends the answer, and it is learned",
                "the template writes no end of turn: the model would not learn to stop")  # fmt: skip


# -------------------------------------------------------------------------------------------------------------- the training


def _trained(found: TrainEvidence, done: TrainDone) -> Iterator[Finding]:
    planned, numbers = done.num_planned_steps, [step.step for step in found.steps]
    taken = None if planned is None else numbers == list(range(1, planned + 1))
    yield run_finding("steps", taken, f"{_shown(planned)} steps were to be taken, {len(numbers)} are in steps.jsonl",
                "the training ended early, or steps.jsonl was damaged: train again")  # fmt: skip
    yield from _as_asked(found, done)
    grpo = found.job.settings.method == "grpo"
    learns = (
        "the rewards of every prompt's completions were the same" if grpo else "check target_modules and the labels"
    )
    yield run_finding("adapter weights", done.adapter_changed, "training changes the adapters",
                f"the adapters got no gradient; {learns}")  # fmt: skip
    yield run_finding("base weights", done.base_unchanged, "training leaves the base weights as they are",
                "the base weights were trained or damaged; load them anew")  # fmt: skip
    yield run_finding("saved adapter", done.saved_adapter_same, "the adapters on the disk are those in memory",
                "what was written is not what was trained; look for a full disk")  # fmt: skip
    yield from _stopping(found, done)


def _stopping(found: TrainEvidence, done: TrainDone) -> Iterator[Finding]:
    """The model ends some of the answers whose end was tested, unless the training was too short. With random weights none is tested."""
    tested, learned = done.num_ends_looked_at, done.num_ends_learned
    why = f"the model ends {_shown(learned)} of {_shown(tested)} answers"
    if learned is not None and learned > (tested or 0):
        yield run_finding("stopping", False, why, "the log was damaged or edited: train again")
    elif tested and len(found.steps) >= MIN_STEPS:
        yield run_finding("stopping", None if learned is None else learned > 0, why,
                    "train longer, or see whether the template's end of turn is the tokenizer's EOS")  # fmt: skip


def _as_asked(found: TrainEvidence, done: TrainDone) -> Iterator[Finding]:
    """A failure for each difference between what the trainer reports of its steps, what was asked for, and steps.jsonl."""
    requested, steps = found.job.schedule.max_steps, found.steps
    if requested is not None and done.num_planned_steps != requested:
        yield run_finding("planned steps", False, f"{requested} steps were requested, but the trainer planned {done.num_planned_steps}",
                   "the trainer got other settings: train again")  # fmt: skip
    reported = done.num_steps, done.first_loss, done.last_loss
    kept = len(steps), *((steps[0].loss, steps[-1].loss) if steps else (None, None))
    if reported != kept:
        yield run_finding("summary", False, f"number of steps, first and last loss: the engine reports {reported}, steps.jsonl has {kept}",
                   "the run folder was damaged or edited: train again")  # fmt: skip


def _losses(found: TrainEvidence) -> Iterator[Finding]:
    """Each loss is a number; those of SFT fall, by the means of the first and the last quarter."""
    losses = [step.loss for step in found.steps]
    known = [loss for loss in losses if loss is not None]
    if not losses:
        return
    yield run_finding("losses", len(known) == len(losses), f"{len(known)} of {len(losses)} steps have a loss that is a number",
                "lower the learning rate; on a card before 8.0, gradients overflow in float16")  # fmt: skip
    if found.job.settings.method == "grpo":
        yield _rewards(found)
    elif len(known) == len(losses):
        yield _falls(known, packed=found.job.settings.packing)


def _rewards(found: TrainEvidence) -> Finding:
    """Each reward is a number. That they rise is not required: a short training cannot promise it."""
    rewards = [step.reward for step in found.steps]
    known = [reward for reward in rewards if reward is not None]
    ends = f", {known[0]:.3f} in the first and {known[-1]:.3f} in the last" if known else ""
    why = f"{len(known)} of {len(rewards)} steps have a mean reward that is a number{ends}"
    return run_finding("rewards", len(known) == len(rewards), why, "have the reward functions return numbers")


def _falls(losses: Sequence[float], packed: bool) -> Finding:
    """Whether the mean of the last quarter is below that of the first; skipped for few steps, and for a rise within the noise of packed rows."""
    if len(losses) < MIN_STEPS:
        why = f"{len(losses)} steps are too few to see it fall"
        return Finding(figure="loss", check=Check.RUN, status=Status.SKIPPED, why=why)
    quarter = len(losses) // 4
    first, last = mean(losses[:quarter]), mean(losses[-quarter:])
    why = f"the loss goes from {first:.3f} to {last:.3f} (means of the first and the last {quarter} steps)"
    noise = NOISE_ERRORS * sqrt((variance(losses[:quarter]) + variance(losses[-quarter:])) / quarter)
    if packed and first <= last < first + noise:
        why += f", a rise of less than the {noise:.3f} that packed rows differ by"
        return Finding(figure="loss", check=Check.RUN, status=Status.SKIPPED, why=why)
    return run_finding("loss", last < first, why, "lower the learning rate, or look at the data")


# ---------------------------------------------------------------------------------------------------------------- the memory


def _memory(found: TrainEvidence) -> Iterator[Finding]:
    peaks = found.peaks
    if peaks is None:
        return
    if peaks.note:
        yield Finding(figure="train_peak", check=Check.MODEL, status=Status.SKIPPED, why=peaks.note)
    ended = found.evidence.process is not None and found.evidence.process[0] == "completed"
    for figure, predicted, measured, low, high in _peaks(found, peaks):
        if predicted is not None and measured is not None:
            from_below = not ended or (figure == "train_peak_device_gib" and _was_paged(found))
            yield _compared(figure, predicted, measured, 0 if from_below else low, high)


def _was_paged(found: TrainEvidence) -> bool:
    """Whether Windows had moved some of the card's memory to the host's RAM (verdict/contradictions.py), by an event or a step."""
    in_steps = (
        step.reserved_bytes is not None
        and step.device_used_bytes is not None
        and step.reserved_bytes > step.device_used_bytes
        for step in found.steps
    )
    return found.evidence.is_wsl and (any(in_steps) or any(off_card(found.evidence)))


def _peaks(found: TrainEvidence, peaks: Peaks) -> Iterator[tuple[str, int | None, int | None, float, float]]:
    """Figure, predicted, measured, and the shares of the prediction that are in range."""
    allocated = measured_allocated(found)
    yield ("train_peak_allocated_gib", peaks.allocated_bytes, allocated, *_allocated_band(found, peaks))
    low = (
        (1 - DEVICE_SHARE - (0 if _is_even(found) else UNEVEN_SHARE))
        * _least_share(peaks)
        * _first_step_share(found, peaks)
    )
    yield "train_peak_device_gib", peaks.device_bytes, measured_device(found), low, 1 + DEVICE_SHARE
    if peaks.host_slack is not None:
        slack = peaks.host_slack
        yield "train_peak_host_gib", peaks.host_bytes, measured_host(found), 1 - slack, 1 + slack


def _least_share(peaks: Peaks) -> float:
    """The share of the card's peak that remains if torch frees the gaps between its blocks."""
    if peaks.least_device_bytes is None or not peaks.device_bytes:
        return 1.0
    return peaks.least_device_bytes / peaks.device_bytes


def measured_allocated(found: TrainEvidence) -> int | None:
    """torch's peak over the training, counted from right before the trainer is made; None on a CPU."""
    begin = found.last(TrainBegin) or TrainBegin()
    return _largest([begin.train_peak_allocated_bytes, *(step.peak_allocated_bytes for step in found.steps)])


def measured_device(found: TrainEvidence) -> int | None:
    """The most in use on the card, counted from right before the trainer is made: torch's reserve, and the rest by the driver."""
    begin = found.last(TrainBegin) or TrainBegin()
    return _largest([begin.train_device_used_bytes, *(step.device_used_bytes for step in found.steps)])


def measured_host(found: TrainEvidence) -> int | None:
    """The peak resident set of the training process."""
    return (found.last(TrainPeak) or TrainPeak()).train_peak_host_bytes


def _largest(values: Sequence[int | None]) -> int | None:
    return max((value for value in values if value is not None), default=None)


def _allocated_band(found: TrainEvidence, peaks: Peaks) -> tuple[float, float]:
    """The range of the allocated peak, as shares of the prediction: exact if all rows have the same length."""
    if found.job.settings.method == "grpo":
        return 1 - GRPO_SHARE, 1 + GRPO_SHARE
    even = _unlearned_share(found, peaks) if _is_even(found) else 1 - UNEVEN_SHARE
    return even * _first_step_share(found, peaks), _resumed_share(found, peaks)


def _resumed_share(found: TrainEvidence, peaks: Peaks) -> float:
    """The share of the allocated peak that a resumed training may reach: a checkpoint restores the optimizer's paged states as plain tensors."""
    if found.job.resume_from is None or not peaks.allocated_bytes:
        return 1.0
    return 1 + peaks.paged_bytes / peaks.allocated_bytes


INDEX_BYTES = 8
"""The loss keeps the index of each token that is learned (cut_cross_entropy/utils.py:31-53); the prediction counts all tokens."""


def _unlearned_share(found: TrainEvidence, peaks: Peaks) -> float:
    """The share of the allocated peak that remains if no token of a batch is learned."""
    rows, settings = found.last(TrainRows), found.job.settings
    if rows is None or rows.num_label_tokens is None or rows.num_tokens is None or not peaks.allocated_bytes:
        return 1.0
    if rows.num_label_tokens >= rows.num_tokens:
        return 1.0
    return 1 - INDEX_BYTES * settings.rows * settings.row_tokens / peaks.allocated_bytes


def _first_step_share(found: TrainEvidence, peaks: Peaks) -> float:
    """The share of the allocated peak that the first step reaches, if rows are even and no later step has them all."""
    even = found.job.settings.method == "sft" and _is_even(found)
    if not even or peaks.first_step_bytes is None or not peaks.allocated_bytes or _later_step_is_full(found):
        return 1.0
    return peaks.first_step_bytes / peaks.allocated_bytes


def _later_step_is_full(found: TrainEvidence) -> bool:
    """Whether a step after the first had all batches with all rows: with few rows, the last step of an epoch has fewer."""
    settings = found.job.settings
    longest = max((step.longest_tokens or 0 for step in found.steps), default=0)
    full = settings.rows * settings.gradient_accumulation_steps * longest
    return any(step.step > 1 and step.num_tokens == full for step in found.steps)


def _is_even(found: TrainEvidence) -> bool:
    """Whether all rows have the same length, so that each batch is as large as the predicted one."""
    rows = found.last(TrainRows)
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
