"""Whether the files of a training's folder agree: load.log, steps.jsonl, run.json, plan.json, train.json and rows.json.

Two processes write the same settings, counts and steps to several of them. A file that differs was damaged, edited or copied from another run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from loadcheck.errors import shortlist
from loadcheck.findings.evidence import Evidence
from loadcheck.findings.finding import Finding, run_finding
from loadcheck.logs.events import Attached, TrainBegin, TrainData, TrainDone, TrainStep
from loadcheck.plan import LoadPlan
from loadcheck.runs.steps import Step
from loadcheck.specs.files import Spec, differences
from loadcheck.specs.lora import adapter_params
from loadcheck.specs.model import find_model
from loadcheck.specs.training import TrainJob
from loadcheck.verdict.contradictions import check_reserve

NAMED = 3
"""How many differing keys a finding names."""
REMEDY = "the run folder was damaged, edited, or mixed with another run's: train again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Records:
    """The files of a training besides its log and steps.jsonl.

    Attributes:
        plan: plan.json, by which the model was loaded.
        job: train.json, by which it was trained; None if there is no such file.
        rows: the counts of the rows in each file that has them; None if there are none.
        predicted: the load's figures in run.json, by their JSON names.
    """

    plan: LoadPlan
    job: TrainJob | None
    rows: Mapping[str, Mapping[str, Any] | None]
    predicted: Mapping[str, Any]


def check_records(evidence: Evidence, job: TrainJob, records: Records) -> Iterator[Finding]:
    """A failure for each file whose settings, model or rows differ from the others'."""
    plan = records.plan
    if evidence.profile is not None:
        yield from _same("plan.json", evidence.profile, plan.profile)
    if records.job is not None:
        yield from _same("train.json", job, records.job)
    quantization = plan.profile.quantization
    if plan.config.quantization != quantization:
        yield _fail("plan.json", f"its profile asks for {quantization}, but its config has {plan.config.quantization}")
    model = find_model(plan.profile.model)
    if model is not None and plan.model_name != model.name:
        yield _fail("plan.json", f"its profile asks for {model.name}, but it loads {plan.model_name}")
    yield from _rows(evidence, records)
    yield from _adapters(evidence, records)


def _same(file: str, ours: Spec, theirs: Spec) -> Iterator[Finding]:
    """A failure that names the settings which differ from run.json's."""
    differ = [
        f"{key} {mine} in run.json and {other} in {file}" for key, (mine, other) in differences(ours, theirs).items()
    ]
    if differ:
        yield _fail(file, shortlist(differ, NAMED, " (and {} more)", "; "))


def _rows(evidence: Evidence, records: Records) -> Iterator[Finding]:
    counted = evidence.attempt.last(TrainData)
    for file, rows in records.rows.items():
        if counted is None or not isinstance(rows, Mapping):
            continue
        for name, value in rows.items():
            logged = getattr(counted, name, value)
            if name != "at_s" and logged != value:
                yield _fail(file, f"{name} is {value} in {file} and {logged} in load.log")


def _adapters(evidence: Evidence, records: Records) -> Iterator[Finding]:
    """Failures for parameter counts other than those of adapters of this rank on these modules."""
    attached, adapters = evidence.attempt.last(Attached), records.plan.profile.adapters
    if attached is None or adapters is None:
        return
    wanted_of = {
        "trainable_params": adapter_params(records.plan.config, adapters.r, adapters.target_modules),
        "total_params": records.predicted.get("total_params"),
    }
    for name, wanted in wanted_of.items():
        measured = getattr(attached, name)
        if measured is not None and wanted is not None and measured != wanted:
            yield _fail(
                name, f"load.log says {measured} parameters, but with adapters of rank {adapters.r} there are {wanted}"
            )


# ----------------------------------------------------------------------------------------------------------------- the steps

_STEP_FIELDS = {
    "loss": "loss", "reward": "reward", "num_tokens": "num_tokens", "train_peak_allocated_bytes": "peak_allocated_bytes",
    "train_device_used_bytes": "device_used_bytes", "train_host_bytes": "host_bytes", "step_s": "step_s",
}  # fmt: skip
"""The fields of a step's event, and their names in steps.jsonl (stacks/step_monitor.py: StepMonitor)."""
_AT_MOST = (("peak_allocated_bytes", "reserved_bytes"),)
_ON_CARD = (("reserved_bytes", "device_used_bytes"),)


def check_steps(evidence: Evidence, job: TrainJob, steps: Sequence[Step]) -> Iterator[Finding]:
    """A failure if the log's steps differ from steps.jsonl, or if a step cannot be true."""
    attempt, kept, last = evidence.attempt, {step.step: step for step in steps}, 0
    for logged in attempt.all(TrainStep):
        step = kept.get(logged.step or 0)
        differ = "" if step is None else _differ(logged, step)
        if step is None or step.step <= last or differ:
            why = (
                differ or f"load.log says step {logged.step} after step {last}, and steps.jsonl has {len(steps)} steps"
            )
            yield _fail("steps", why)
            break
        last = step.step
    for step in steps:
        for why in _impossible(step, job, evidence.is_wsl):
            yield _fail("steps", f"step {step.step} of steps.jsonl: {why}")
            return
    if evidence.is_wsl:
        yield from check_reserve(evidence, max((step.reserved_bytes or 0 for step in steps), default=0))
    begun, done = attempt.last(TrainBegin), attempt.last(TrainDone)
    if (
        begun is not None
        and (before := begun.train_before_peak_allocated_bytes) is not None
        and (begun.train_peak_allocated_bytes or before) < before
    ):
        yield _fail(
            "steps",
            f"torch's peak is {begun.train_peak_allocated_bytes} bytes at the first step, and was {before} before it",
        )
    if begun is not None and done is not None and begun.num_steps != done.num_planned_steps:
        yield _fail(
            "steps", f"{begun.num_steps} steps were planned at the beginning, and {done.num_planned_steps} at the end"
        )


def _differ(logged: TrainStep, step: Step) -> str:
    for event_name, name in _STEP_FIELDS.items():
        theirs, ours = getattr(logged, event_name), getattr(step, name)
        # Until 11cf663 a step of GRPO, whose tokens are not counted, was logged with 0 of them.
        if theirs is not None and theirs != (ours or 0):
            return f"{name} of step {step.step} is {theirs} in load.log and {ours} in steps.jsonl"
    return ""


def _impossible(step: Step, job: TrainJob, is_wsl: bool) -> Iterator[str]:
    for part, whole in _AT_MOST if is_wsl else (*_AT_MOST, *_ON_CARD):
        small, large = getattr(step, part), getattr(step, whole)
        if small is not None and large is not None and small > large:
            yield f"{part} {small} in {whole} {large}"
    settings, most = job.settings, job.schedule.learning_rate
    if step.learning_rate > most:
        yield f"a learning rate of {step.learning_rate}, above the requested {most}"
    if settings.method == "sft" and step.num_tokens is not None and step.longest_tokens is not None:
        rows = settings.per_device_train_batch_size * settings.gradient_accumulation_steps
        if step.num_tokens > rows * step.longest_tokens:
            yield f"{step.num_tokens} tokens in {rows} rows of at most {step.longest_tokens}"


def _fail(figure: str, why: str) -> Finding:
    return run_finding(figure, False, why, REMEDY)
