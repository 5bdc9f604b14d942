"""Reads a run, a training or a log as a Subject of a comparison."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from loadcheck.checking import gather
from loadcheck.comparing.subject import MACHINE, Subject, equal_to, is_compared, with_ram
from loadcheck.comparing.training import job_settings, judged_peaks, measured_peaks
from loadcheck.errors import BadInput
from loadcheck.figures import Kind, Reading, figure_specs
from loadcheck.findings.finding import Status
from loadcheck.logs.events import Device, Imported
from loadcheck.predict import Case, card_from_device
from loadcheck.runs.folder import RunFolder
from loadcheck.runs.record import RunRecord
from loadcheck.specs.profile import settings_by_key
from loadcheck.stacks import stack_of
from loadcheck.training import Trained, is_training, judge_training_folder, longest_batch
from loadcheck.verdict import Evidence
from loadcheck.verdict.model import check_model

_NO_VERSIONS = (*MACHINE, "model", "dtype", "quantization")


def of_run_or_log(target: Path) -> Subject:
    """The Subject of a run folder or a log; BadInput if it is neither."""
    record = RunFolder(target).read_record() if target.is_dir() else None
    found = _of_evidence(str(target), gather(target, record=record), record)
    return found if record is None or not is_training(record) else _of_training(found, judge_training_folder(target))


def _of_training(load: Subject, trained: Trained) -> Subject:
    """The load's Subject with what a training adds."""
    fine, banded = judged_peaks(trained.verdict)
    return replace(
        load,
        kind="training",
        settings=load.settings if trained.found is None else {**load.settings, **job_settings(trained.found.job)},
        readings={**load.readings, **measured_peaks(trained.measured())},
        as_predicted=load.as_predicted | fine,
        banded={**load.banded, **banded},
        training=None if trained.found is None else longest_batch(trained.found),
    )


def _of_evidence(name: str, evidence: Evidence, record: RunRecord | None) -> Subject:
    attempt = evidence.attempt
    readings = {attribute: reading for attribute in figure_specs() if (reading := attempt.reading(attribute))}
    case = recorded_case(evidence, record)
    return Subject(
        name=name,
        kind="log" if record is None else "run",
        ending=attempt.outcome.value if record is None else record.outcome,
        model=_model(readings),
        settings={} if evidence.profile is None else settings_by_key(evidence.profile),
        versions=dict(versions_of(evidence, record)),
        machine=dict(machine_of(evidence, record)),
        readings={attribute: reading for attribute, reading in readings.items() if is_compared(attribute)},
        as_predicted=_as_predicted(evidence, case, readings),
        banded={attribute: band.why for attribute, band in (evidence.bands or {}).items()},
        case=case,
        note=evidence.prediction_note or "its settings are not known",
        again=len(evidence.log.attempts) > 1,
    )


def recorded_case(evidence: Evidence, record: RunRecord | None) -> Case | None:
    """The case from which the log was predicted; for a run that ended before its log stated enough, the case of its record."""
    swap = evidence.attempt.reading("swap_bytes")
    if evidence.case is not None:
        return with_ram(evidence.case, swap)
    gpu = None if record is None else record.machine.get("gpu")
    if record is None or evidence.profile is None or not gpu or not 0 < gpu["free_bytes"] <= gpu["total_bytes"]:
        return None
    try:
        card = card_from_device(gpu["name"], gpu["compute_capability"], gpu["total_bytes"], gpu["free_bytes"])
        model = stack_of(evidence.profile).resolve(evidence.profile)
    except (BadInput, ValueError):  # an unknown model or an invalid compute capability
        return None
    ram = record.machine.get("ram_available_bytes")
    case = Case(config=model.config, profile=evidence.profile, card=card, ram_available_bytes=ram)
    return with_ram(case, swap)


def _as_predicted(evidence: Evidence, case: Case | None, readings: Mapping[str, Reading]) -> frozenset[str]:
    """The figures that match the prediction by the verdict's rule; if the log is not predicted, those that equal the record's prediction."""
    if evidence.predicted is None and case is not None:
        return equal_to(case, readings)
    findings = {finding.figure: finding.status for finding in check_model(evidence)}
    return frozenset(
        attribute for attribute, reading in readings.items() if findings.get(reading.spec.name) is Status.OK
    )


def _model(readings: Mapping[str, Reading]) -> str | None:
    """The model's name without its folder or owner, and its quantization."""
    words = [str(readings[name].value).rpartition("/")[2] for name in ("model", "quantization") if name in readings]
    return " ".join(words) or None


def versions_of(evidence: Evidence, record: RunRecord | None) -> Iterator[tuple[str, str]]:
    """The versions that our own engine recorded, and those that the log prints, which are more detailed for torch."""
    imported = evidence.attempt.last(Imported)
    if imported is not None and imported.versions is not None:
        yield from imported.versions.items()
    for attribute, spec in figure_specs().items():
        reading = evidence.attempt.reading(attribute)
        if spec.kind is Kind.TEXT and attribute not in _NO_VERSIONS and reading is not None:
            yield attribute, str(reading.value)
    if record is not None:
        yield "loadcheck", record.loadcheck
        if record.commit is not None:
            yield "commit of loadcheck", record.commit
        if record.machine.get("python"):
            yield "python", str(record.machine["python"])


def machine_of(evidence: Evidence, record: RunRecord | None) -> Iterator[tuple[str, Any]]:
    """The card, its memory and its driver, before the load."""
    for attribute in MACHINE:
        reading = evidence.attempt.reading(attribute)
        if reading is not None:
            yield reading.spec.name, reading.show()
    device = evidence.attempt.last(Device) or Device()
    for name in ("device_free_bytes", "driver"):
        if (value := getattr(device, name)) is not None:
            yield name, value
    if record is not None and record.machine.get("ram_available_bytes") is not None:
        yield "ram_available_bytes", record.machine["ram_available_bytes"]
