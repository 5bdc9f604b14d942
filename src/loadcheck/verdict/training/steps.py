"""Whether the steps of a training's log are those of steps.jsonl, and can be true."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from loadcheck.findings.evidence import Evidence
from loadcheck.findings.finding import Finding
from loadcheck.logs.attempt import Attempt
from loadcheck.logs.events import TrainBegin, TrainDone, TrainStep
from loadcheck.runs.steps import Step
from loadcheck.specs.training import TrainJob
from loadcheck.verdict.contradictions import check_reserve
from loadcheck.verdict.training.records import mixed_up

_STEP_FIELDS = {
    "loss": "loss", "reward": "reward", "num_tokens": "num_tokens", "train_peak_allocated_bytes": "peak_allocated_bytes",
    "train_device_used_bytes": "device_used_bytes", "train_host_bytes": "host_bytes", "step_s": "step_s",
}  # fmt: skip
"""The fields of a step's event, and their names in steps.jsonl (stacks/step_monitor.py: StepMonitor)."""
_AT_MOST = (("peak_allocated_bytes", "reserved_bytes"),)
_ON_CARD = (("reserved_bytes", "device_used_bytes"),)


def check_steps(evidence: Evidence, job: TrainJob, steps: Sequence[Step]) -> Iterator[Finding]:
    """A failure if the log's steps differ from steps.jsonl, or if a step cannot be true; of each, the first."""
    yield from islice(_differing(evidence.attempt, steps), 1)
    impossible = next(_impossible(evidence, job, steps), None)
    if impossible is not None:
        yield impossible
        return
    if evidence.is_wsl:
        yield from check_reserve(evidence, max((step.reserved_bytes or 0 for step in steps), default=0))
    yield from _contradicting_begin(evidence.attempt)


def _differing(attempt: Attempt, steps: Sequence[Step]) -> Iterator[Finding]:
    """Each step of the log that steps.jsonl has otherwise; a step that is out of order is the last."""
    step_of, last = {step.step: step for step in steps}, 0
    for logged in attempt.all(TrainStep):
        step = step_of.get(logged.step or 0)
        if step is not None and (difference := _difference(logged, step)):
            yield mixed_up("steps", difference)
        if step is None or step.step <= last:
            order = f"load.log says step {logged.step} after step {last}"
            yield mixed_up("steps", f"{order}, and steps.jsonl has {len(steps)} steps")
            return
        last = step.step


def _difference(logged: TrainStep, step: Step) -> str:
    """What a step's event says otherwise than steps.jsonl; empty if nothing."""
    for event_name, name in _STEP_FIELDS.items():
        theirs, ours = getattr(logged, event_name), getattr(step, name)
        # Until 11cf663 a step of GRPO, whose tokens are not counted, was logged with 0 of them.
        if theirs is not None and theirs != (ours or 0):
            return f"{name} of step {step.step} is {theirs} in load.log and {ours} in steps.jsonl"
    return ""


def _impossible(evidence: Evidence, job: TrainJob, steps: Sequence[Step]) -> Iterator[Finding]:
    for step in steps:
        for why in (*_impossible_memory(step, evidence.is_wsl), *_impossible_for(job, step)):
            yield mixed_up("steps", f"step {step.step} of steps.jsonl: {why}")


def _impossible_memory(step: Step, is_wsl: bool) -> Iterator[str]:
    for part, whole in _AT_MOST if is_wsl else (*_AT_MOST, *_ON_CARD):
        small, large = getattr(step, part), getattr(step, whole)
        if small is not None and large is not None and small > large:
            yield f"{part} {small} in {whole} {large}"


def _impossible_for(job: TrainJob, step: Step) -> Iterator[str]:
    """What a step says that the settings of its training rule out."""
    settings, most = job.settings, job.schedule.learning_rate
    if step.learning_rate > most:
        yield f"a learning rate of {step.learning_rate}, above the requested {most}"
    if settings.method == "sft" and step.num_tokens is not None and step.longest_tokens is not None:
        rows = settings.per_device_train_batch_size * settings.gradient_accumulation_steps
        if step.num_tokens > rows * step.longest_tokens:
            yield f"{step.num_tokens} tokens in {rows} rows of at most {step.longest_tokens}"


def _contradicting_begin(attempt: Attempt) -> Iterator[Finding]:
    """Failures if the event of the begin contradicts itself, or that of the end."""
    begin, done = attempt.last(TrainBegin), attempt.last(TrainDone)
    if begin is None:
        return
    before, peak = begin.train_before_peak_allocated_bytes, begin.train_peak_allocated_bytes
    if before is not None and (peak or before) < before:
        yield mixed_up("steps", f"torch's peak is {peak} bytes at the first step, and was {before} before it")
    if done is not None and begin.num_steps != done.num_planned_steps:
        yield mixed_up(
            "steps", f"{begin.num_steps} steps were planned at the beginning, and {done.num_planned_steps} at the end"
        )
