"""`loadcheck train`: trains adapters on a data file in child processes, and judges the training."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from loadcheck.checking import gather, parse_run_log
from loadcheck.errors import BadInput, Problem
from loadcheck.findings.evidence import Evidence
from loadcheck.findings.finding import Verdict
from loadcheck.loading import exit_code_of, judge_without_log
from loadcheck.logs.events import Device
from loadcheck.plan import LoadPlan, plan_from_json
from loadcheck.predict import Card, Case, card_from_device
from loadcheck.preparing import Prepared
from loadcheck.running import Work, run, write_results
from loadcheck.runs.folder import RunFolder
from loadcheck.runs.json_file import own_file, read_json, write_json
from loadcheck.runs.record import RunRecord
from loadcheck.runs.steps import read_steps
from loadcheck.specs.files import changed, to_data, validate
from loadcheck.specs.training import TrainJob, TrainSettings
from loadcheck.units import gib_figures
from loadcheck.verdict.training import judge_training
from loadcheck.verdict.training.evidence import TrainEvidence
from loadcheck.verdict.training.memory import measured_allocated, measured_device, measured_host
from loadcheck.verdict.training.records import Records
from loadcheck.workloads.peaks import Peaks, predict_peaks

STEPS = ("prepare", "rows", "train")


@dataclass(frozen=True, slots=True)
class Trained:
    """A training that has ended, successfully or not. `found` is None if the log holds no line of a load."""

    folder: RunFolder
    record: RunRecord
    found: TrainEvidence | None
    verdict: Verdict

    @property
    def exit_code(self) -> int:
        return exit_code_of(self.record, self.verdict)

    def to_json(self) -> dict[str, Any]:
        """The document of `train --json`; `bytes` holds the exact peaks, `figures` the same in GiB beside the load's."""
        measured, peaks = self.measured(), self.predicted()
        figures = {} if self.found is None else self.found.evidence.attempt.figures.to_json()
        steps = [] if self.found is None else self.found.steps
        return {
            "run": str(self.folder.path),
            "profile": self.record.profile.get("name"),
            "outcome": self.record.outcome,
            "reason": self.record.reason,
            "figures": {**figures, **gib_figures(measured)},
            "bytes": measured,
            "predicted": {**gib_figures(peaks), "bytes": peaks},
            "training": {
                **(self.record.training or {}),
                "adapter": str(self.folder.path / "adapter") if (self.folder.path / "adapter").is_dir() else None,
                "num_steps": len(steps),
                "first_loss": steps[0].loss if steps else None,
                "last_loss": steps[-1].loss if steps else None,
            },
            **self.verdict.to_json(),
        }

    @property
    def evidence(self) -> Evidence | None:
        """The evidence from its log, as for a load."""
        return None if self.found is None else self.found.evidence

    def measured(self) -> dict[str, int | None]:
        """The peaks in bytes; None for those that were not measured."""
        found = self.found
        return {
            "train_peak_allocated_bytes": None if found is None else measured_allocated(found),
            "train_peak_device_bytes": None if found is None else measured_device(found),
            "train_peak_host_bytes": None if found is None else measured_host(found),
        }

    def predicted(self) -> dict[str, int | None]:
        peaks = Peaks() if self.found is None or self.found.peaks is None else self.found.peaks
        names = ("allocated_bytes", "device_bytes", "host_bytes")
        return {f"train_peak_{name}": getattr(peaks, name) for name in names}


class DoesNotFitError(Exception):
    """The training was predicted not to fit, and nothing was trained."""

    def __init__(self, peaks: Peaks) -> None:
        self.peaks = peaks
        super().__init__("it was predicted not to fit")


Predicted = Callable[[TrainJob, Peaks, dict[str, Any]], None]
"""Called once the rows are counted, before the training, with the job (its length set to the longest row), the peaks, and the counts."""


@dataclass(frozen=True, slots=True)
class Training:
    """A training that is about to start; with `force` even if it is predicted not to fit."""

    case: Case
    job: TrainJob
    on_predicted: Predicted
    force: bool = False

    def begin(self, folder: RunFolder) -> None:
        write_json(folder.train_path, to_data(self.job))

    def after(self, step: str, folder: RunFolder, record: RunRecord) -> None:
        """Once the rows are counted: report bad rows, predict the peaks for the longest row, and stop if they do not fit."""
        if step != "rows":
            return
        counted = _read_counts(folder)
        job = with_longest(self.job, counted)
        peaks = predict_peaks(self.case, job.settings)
        write_json(folder.train_path, to_data(job))
        record.training = {"job": to_data(job), "predicted": peaks.to_json(), "rows": counted}
        folder.write_record(record)
        self.on_predicted(job, peaks, counted)
        if not peaks.fits and not self.force:
            raise DoesNotFitError(peaks)

    def record(self) -> dict[str, Any]:
        """The `training` of run.json until the rows are counted."""
        return {"job": to_data(self.job), "predicted": None, "rows": None}


def train(prepared: Prepared, training: Training, run_dir: Path | None, on_output: Callable[[bytes], None]) -> Trained:
    """Count the rows, predict, train in a child process, record it in a run folder, and judge it.

    BadInput for rows in which the tokenizer found faults; DoesNotFitError if the training would not fit.
    """
    work = Work(STEPS, training.begin, training.after, training.record())
    folder, record, log_path = run(prepared, run_dir, on_output, work)
    found, verdict = _judge(folder, record, log_path)
    write_results(folder, record, verdict)
    return Trained(folder, record, found, verdict)


def _read_counts(folder: RunFolder) -> dict[str, Any]:
    """The counts of rows.json; BadInput with every fault of the rows."""
    counted: dict[str, Any] = json.loads(own_file(folder.rows_path).read_text(encoding="utf-8"))
    problems = [Problem(**problem) for problem in counted.pop("problems")]
    if problems:
        raise BadInput(problems)
    return counted


def with_longest(job: TrainJob, counted: dict[str, Any]) -> TrainJob:
    """The job with its length set to the longest row of the data, for which memory is predicted."""
    key = "max_prompt_length" if job.settings.method == "grpo" else "train_seq_length"
    return changed(job, {f"settings.{key}": max(1, int(counted["num_longest_tokens"]))}, "train.json")


# ------------------------------------------------------------------------------------------------------------------- judging


def is_training(record: RunRecord) -> bool:
    """Whether a run is a training rather than a load."""
    return record.training is not None


def judge_training_folder(path: Path) -> Trained:
    """Judge the run folder of a training again; BadInput if it is not one."""
    folder = RunFolder(path)
    record = folder.read_record()
    found, verdict = _judge(folder, record, folder.log_path)
    return Trained(folder, record, found, verdict)


def _judge(folder: RunFolder, record: RunRecord, log_path: Path) -> tuple[TrainEvidence | None, Verdict]:
    """The verdict; if the log holds no line of a load, by how its process ended."""
    try:
        log = parse_run_log(log_path)
    except BadInput as error:
        return None, judge_without_log(record, error)
    evidence = gather(folder.path, log=log, record=record)
    job = validate(TrainJob, (record.training or {}).get("job"), f"run.json of {record.id}: training.job")
    plan = _plan(folder)
    found = TrainEvidence(
        evidence=evidence,
        job=job,
        steps=read_steps(folder.steps_path),
        peaks=None,
        records=_records(folder, record, plan),
    )
    found = replace(found, peaks=_peaks(plan, found))
    return found, judge_training(found)


def _records(folder: RunFolder, record: RunRecord, plan: LoadPlan) -> Records:
    """The training as recorded in the folder's other files; BadInput for a file that cannot be read."""
    job, counted, rows = read_json(folder.train_path), read_json(folder.rows_path), (record.training or {}).get("rows")
    written = None if job is None else validate(TrainJob, job, str(folder.train_path))
    rows_of = {"run.json": rows, "rows.json": counted}
    return Records(plan=plan, job=written, rows=rows_of, predicted=record.predicted or {})


def _card(device: Device | None) -> Card | None:
    """The card as the engine read it; None if the run ended before that, or the log was damaged."""
    if device is None or device.gpu_name is None or device.compute_capability is None:
        return None
    if device.device_total_bytes is None or device.device_free_bytes is None:
        return None
    return card_from_device(
        device.gpu_name, device.compute_capability, device.device_total_bytes, device.device_free_bytes
    )


def _plan(folder: RunFolder) -> LoadPlan:
    """plan.json; BadInput if it is missing or invalid."""
    data = read_json(folder.plan_path)
    if data is None:
        raise BadInput(
            Problem(str(folder.plan_path), "is missing", "give the whole run folder, as `loadcheck train` left it")
        )
    return plan_from_json(data)


def _peaks(plan: LoadPlan, training: TrainEvidence) -> Peaks | None:
    """The peaks predicted for the longest batch of the run, on its own card; None if the run took no step."""
    if not training.steps:
        return None
    card = None if plan.profile.on_cpu else _card(training.evidence.attempt.last(Device))
    if card is None and not plan.profile.on_cpu:
        return None
    ram = training.evidence.machine.get("ram_available_bytes")
    return predict_peaks(Case.of(plan, card, ram), longest_batch(training))


def longest_batch(training: TrainEvidence) -> TrainSettings:
    """The settings with the run's longest row."""
    longest = max((step.longest_tokens or 0 for step in training.steps), default=0)
    settings = training.job.settings
    return changed(settings, {"train_seq_length": longest}) if longest and settings.method == "sft" else settings
