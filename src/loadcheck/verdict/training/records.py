"""Whether the files of a training's folder agree: load.log, steps.jsonl, run.json, plan.json, train.json and rows.json.

Two processes write the same settings, counts and steps to several of them. A file that differs was damaged, edited or copied from another run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from loadcheck.errors import shortlist
from loadcheck.findings.evidence import Evidence
from loadcheck.findings.finding import Finding, run_failure
from loadcheck.logs.events import Attached, TrainData
from loadcheck.plan import LoadPlan
from loadcheck.specs.files import Spec, differences
from loadcheck.specs.lora import adapter_params
from loadcheck.specs.model import find_model
from loadcheck.specs.training import TrainJob

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
        yield mixed_up(
            "plan.json", f"its profile asks for {quantization}, but its config has {plan.config.quantization}"
        )
    model = find_model(plan.profile.model)
    if model is not None and plan.model_name != model.name:
        yield mixed_up("plan.json", f"its profile asks for {model.name}, but it loads {plan.model_name}")
    yield from _rows(evidence, records)
    yield from _adapters(evidence, records)


def _same(file: str, ours: Spec, theirs: Spec) -> Iterator[Finding]:
    """A failure that names the settings which differ from run.json's."""
    differ = [
        f"{key} {mine} in run.json and {other} in {file}" for key, (mine, other) in differences(ours, theirs).items()
    ]
    if differ:
        yield mixed_up(file, shortlist(differ, NAMED, " (and {} more)", "; "))


def _rows(evidence: Evidence, records: Records) -> Iterator[Finding]:
    counted = evidence.attempt.last(TrainData)
    for file, rows in records.rows.items():
        if counted is None or not isinstance(rows, Mapping):
            continue
        for name, value in rows.items():
            logged = getattr(counted, name, value)
            if name != "at_s" and logged != value:
                yield mixed_up(file, f"{name} is {value} in {file} and {logged} in load.log")


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
            yield mixed_up(
                name, f"load.log says {measured} parameters, but with adapters of rank {adapters.r} there are {wanted}"
            )


def mixed_up(figure: str, why: str) -> Finding:
    """The failure of files that contradict each other, or themselves."""
    return run_failure(figure, why, REMEDY)
