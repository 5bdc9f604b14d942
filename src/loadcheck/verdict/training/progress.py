"""Judges what a training did: the steps that it took, its losses, and what it changed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import sqrt
from statistics import mean, variance

from loadcheck.findings.finding import Check, Finding, Status, run_failure, run_finding
from loadcheck.logs.events import (
    TrainDone,
)
from loadcheck.verdict.training.evidence import TrainEvidence
from loadcheck.verdict.training.rows import shown

MIN_STEPS = 8
"""Over fewer steps the loss tells nothing: batches differ by more than is learned."""
NOISE_ERRORS = 2
"""Standard errors by which the loss of packed rows may rise without meaning anything: a row may begin in the middle of an example, and some hold
little that is learned. Over 46 rows of 64 tokens (examples/glossary.jsonl) it rose by 0.18, as the last rows are harder: without training by 0.73."""


def check_done(training: TrainEvidence, done: TrainDone) -> Iterator[Finding]:
    planned, numbers = done.num_planned_steps, [step.step for step in training.steps]
    taken = None if planned is None else numbers == list(range(1, planned + 1))
    yield run_finding("steps", taken, f"{shown(planned)} steps were to be taken, {len(numbers)} are in steps.jsonl",
                "the training ended early, or steps.jsonl was damaged: train again")  # fmt: skip
    yield from _as_asked(training, done)
    grpo = training.job.settings.method == "grpo"
    learns = (
        "the rewards of every prompt's completions were the same" if grpo else "check target_modules and the labels"
    )
    yield run_finding("adapter weights", done.adapter_changed, "training changes the adapters",
                f"the adapters got no gradient; {learns}")  # fmt: skip
    yield run_finding("base weights", done.base_unchanged, "training leaves the base weights as they are",
                "the base weights were trained or damaged; load them anew")  # fmt: skip
    yield run_finding("saved adapter", done.saved_adapter_same, "the adapters on the disk are those in memory",
                "what was written is not what was trained; look for a full disk")  # fmt: skip
    yield from _stopping(training, done)


def _stopping(training: TrainEvidence, done: TrainDone) -> Iterator[Finding]:
    """The model ends some of the answers whose end was tested, unless the training was too short. With random weights none is tested."""
    tested, learned = done.num_ends_looked_at, done.num_ends_learned
    why = f"the model ends {shown(learned)} of {shown(tested)} answers"
    if learned is not None and learned > (tested or 0):
        yield run_failure("stopping", why, "the log was damaged or edited: train again")
    elif tested and len(training.steps) >= MIN_STEPS:
        yield run_finding("stopping", None if learned is None else learned > 0, why,
                    "train longer, or see whether the template's end of turn is the tokenizer's EOS")  # fmt: skip


def _as_asked(training: TrainEvidence, done: TrainDone) -> Iterator[Finding]:
    """A failure for each difference between what the trainer reports of its steps, what was asked for, and steps.jsonl."""
    requested, steps = training.job.schedule.max_steps, training.steps
    if requested is not None and done.num_planned_steps != requested:
        yield run_failure("planned steps", f"{requested} steps were requested, but the trainer planned {done.num_planned_steps}",
                   "the trainer got other settings: train again")  # fmt: skip
    reported = done.num_steps, done.first_loss, done.last_loss
    kept = len(steps), *((steps[0].loss, steps[-1].loss) if steps else (None, None))
    if reported != kept:
        yield run_failure("summary", f"number of steps, first and last loss: the engine reports {reported}, steps.jsonl has {kept}",
                   "the run folder was damaged or edited: train again")  # fmt: skip


def check_losses(training: TrainEvidence) -> Iterator[Finding]:
    """Each loss is a number; those of SFT fall, by the means of the first and the last quarter."""
    losses = [step.loss for step in training.steps]
    known = [loss for loss in losses if loss is not None]
    if not losses:
        return
    yield run_finding("losses", len(known) == len(losses), f"{len(known)} of {len(losses)} steps have a loss that is a number",
                "lower the learning rate; on a card before 8.0, gradients overflow in float16")  # fmt: skip
    if training.job.settings.method == "grpo":
        yield _rewards(training)
    elif len(known) == len(losses):
        yield _falls(known, packed=training.job.settings.packing)


def _rewards(training: TrainEvidence) -> Finding:
    """Each reward is a number. That they rise is not required: a short training cannot promise it."""
    rewards = [step.reward for step in training.steps]
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
