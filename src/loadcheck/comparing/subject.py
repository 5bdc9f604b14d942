"""One of the loads that are compared: a run, a log, or a prediction as `predict --json` writes it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from loadcheck.checking import gather
from loadcheck.comparing.training import job_settings, judged_peaks, longest_batch, measured_peaks, peak_terms
from loadcheck.errors import BadInput, Problem
from loadcheck.figures import Kind, Reading, Value, figure_specs
from loadcheck.findings.finding import Status
from loadcheck.predict import Case, card_from_device
from loadcheck.runs.folder import RunFolder, RunRecord
from loadcheck.specs.files import flat, validate
from loadcheck.specs.profile import Profile
from loadcheck.specs.training import TrainSettings
from loadcheck.stacks import predict, stack_of
from loadcheck.training import Trained, is_training, judge_training_folder
from loadcheck.units import GIB
from loadcheck.verdict import Evidence
from loadcheck.verdict.model import check_model

MAX_DOCUMENT_BYTES = 4 * 1024 * 1024
"""Far over what `predict --json` prints, so that a hostile file cannot fill memory."""
_RAM_BYTES = tuple(gib * GIB for gib in range(4, 68, 4))
"""Hosts that are tried for one of whose RAM nothing is known but the swap space."""
_MACHINE = ("gpu_name", "gpu_total_bytes", "compute_capability")
_NO_VERSIONS = (*_MACHINE, "model", "dtype", "quantization")
_NOT_SETTINGS = ("name", "description")


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is known of one load.

    Attributes:
        name: what the user called it.
        kind: run, log or prediction.
        ending: completed, failed, killed, …; None for a prediction, which has not ended.
        model: what is loaded, and how it is quantized; None where the log does not say.
        settings: of its profile, by dotted key; empty where they are not known.
        versions, machine: by what they are of.
        readings: every number that it states, by the figure's attribute, without times.
        as_predicted: the figures among them that are what `case` predicts, to the printed digit or within their band.
        banded: those that have a band, and why.
        case: what its figures are predicted from; None where that is not all known.
        note: why it has none.
        training: the settings of a training, with the longest row that came; None for a load.
        again: whether it is a second attempt in one process, which begins with what the first one left.
    """

    name: str
    kind: str
    ending: str | None = None
    model: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    machine: Mapping[str, Any] = field(default_factory=dict)
    readings: Mapping[str, Reading] = field(default_factory=dict)
    as_predicted: frozenset[str] = frozenset()
    banded: Mapping[str, str] = field(default_factory=dict)
    case: Case | None = None
    note: str = ""
    training: TrainSettings | None = None
    again: bool = False


def read_subject(target: Path) -> Subject:
    """A run folder, a log, or the document of `predict --json` in a file that ends in .json.

    BadInput where it is none of them.
    """
    document = None if target.is_dir() or target.suffix != ".json" else _document(target)
    if document is not None:
        return _of_document(str(target), document)
    record = RunFolder(target).read_record() if target.is_dir() else None
    found = _of_evidence(str(target), gather(target, record=record), record)
    return found if record is None or not is_training(record) else _of_training(found, judge_training_folder(target))


def _of_training(load: Subject, trained: Trained) -> Subject:
    """What a training's run states beside what a load's does."""
    fine, banded = judged_peaks(trained.verdict)
    return replace(
        load,
        kind="training",
        settings=load.settings if trained.found is None else {**load.settings, **job_settings(trained.found.job)},
        readings={**load.readings, **measured_peaks(trained.measured())},
        as_predicted=load.as_predicted | fine,
        banded={**load.banded, **banded},
        training=longest_batch(trained),
    )


def is_compared(attribute: str) -> bool:
    """Whether a figure is a number that a load's settings, model and card decide: no name, no version and no time."""
    return figure_specs()[attribute].kind not in (Kind.TEXT, Kind.SECONDS) and attribute not in _MACHINE


def _of_evidence(name: str, evidence: Evidence, record: RunRecord | None) -> Subject:
    attempt = evidence.attempt
    readings = {attribute: reading for attribute in figure_specs() if (reading := attempt.reading(attribute))}
    case = case_of(evidence, record)
    return Subject(
        name=name,
        kind="log" if record is None else "run",
        ending=attempt.outcome.value if record is None else record.outcome,
        model=_model(readings),
        settings={} if evidence.profile is None else _settings(evidence.profile),
        versions=dict(versions_of(evidence, record)),
        machine=dict(machine_of(evidence, record)),
        readings={attribute: each for attribute, each in readings.items() if is_compared(attribute)},
        as_predicted=_as_predicted(evidence, case, readings),
        banded={attribute: band.why for attribute, band in (evidence.bands or {}).items()},
        case=case,
        note=evidence.prediction_note or "its settings are not known",
        again=len(evidence.log.attempts) > 1,
    )


def case_of(evidence: Evidence, record: RunRecord | None) -> Case | None:
    """What the log was predicted from; of a run that ended before its log said enough, what its record says."""
    swap = evidence.attempt.reading("swap_bytes")
    if evidence.case is not None:
        return _with_ram(evidence.case, swap)
    gpu = None if record is None else record.machine.get("gpu")
    if record is None or evidence.profile is None or not gpu or not 0 < gpu["free_bytes"] <= gpu["total_bytes"]:
        return None
    try:
        card = card_from_device(gpu["name"], gpu["compute_capability"], gpu["total_bytes"], gpu["free_bytes"])
        model = stack_of(evidence.profile).resolve(evidence.profile)
    except (BadInput, ValueError):  # a model or a compute capability that is none
        return None
    ram = record.machine.get("ram_available_bytes")
    case = Case(config=model.config, profile=evidence.profile, card=card, ram_available_bytes=ram)
    return _with_ram(case, swap)


def _as_predicted(evidence: Evidence, case: Case | None, readings: Mapping[str, Reading]) -> frozenset[str]:
    """By the verdict's own rule; of a run that it does not predict, those that equal its record's prediction to the digit."""
    if evidence.predicted is None and case is not None:
        return _equal(case, readings)
    findings = {each.figure: each.status for each in check_model(evidence)}
    return frozenset(attribute for attribute, each in readings.items() if findings.get(each.spec.name) is Status.OK)


def _equal(case: Case, readings: Mapping[str, Reading]) -> frozenset[str]:
    predicted = predict(case).figures.known()
    return frozenset(name for name, each in readings.items() if name in predicted and each.agrees(predicted[name]))


def _model(readings: Mapping[str, Reading]) -> str | None:
    """The model without the folder or the owner before it, and how it is quantized."""
    said = [str(readings[name].value).rpartition("/")[2] for name in ("model", "quantization") if name in readings]
    return " ".join(said) or None


def _settings(profile: Profile) -> dict[str, Any]:
    return {key: value for key, value in flat(profile).items() if key not in _NOT_SETTINGS}


def versions_of(evidence: Evidence, record: RunRecord | None) -> Iterator[tuple[str, str]]:
    """As our own engine read them of every package that matters, and as the log prints them, which says more of torch."""
    imported = evidence.attempt.event("imported") or {}
    versions = imported.get("versions")
    if isinstance(versions, dict):
        yield from ((str(name), str(version)) for name, version in versions.items())
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
    for attribute in _MACHINE:
        reading = evidence.attempt.reading(attribute)
        if reading is not None:
            yield reading.spec.name, reading.show()
    device = evidence.attempt.event("device") or {}
    for name in ("device_free_bytes", "driver"):
        if device.get(name) is not None:
            yield name, device[name]
    if record is not None and record.machine.get("ram_available_bytes") is not None:
        yield "ram_available_bytes", record.machine["ram_available_bytes"]


def _with_ram(case: Case, swap: Reading | None) -> Case:
    """The case on a host with so much RAM that its swap space is as stated, where the RAM itself is not known."""
    if case.ram_available_bytes is not None or case.card is None:
        return case
    hosts = [replace(case, ram_available_bytes=ram_bytes) for ram_bytes in _RAM_BYTES]
    fitting = (host for host in hosts if swap is None or predict(host).figures.swap_bytes == swap.value)
    return next(fitting, hosts[0])


def _document(path: Path) -> dict[str, Any] | None:
    """The JSON of a prediction; None for a file that is none."""
    with suppress(OSError, ValueError, RecursionError), path.open("rb") as file:
        text = file.read(MAX_DOCUMENT_BYTES + 1)
        document = json.loads(text) if len(text) <= MAX_DOCUMENT_BYTES else None
        if isinstance(document, dict) and {"fits", "figures", "settings"} <= document.keys():
            return document
    return None


def _of_document(name: str, document: dict[str, Any]) -> Subject:
    """BadInput where it is not as `predict --json` writes it."""
    try:
        readings = dict(_stated(document["figures"], document.get("bytes") or {}))
        case = _case(name, document, readings)
        training = _training(name, document)
        model = document["model"]
        card = document["gpu"]
        machine = {} if card is None else {"gpu_name": card["name"], "compute_capability": card["compute_capability"],
                                           "gpu_total_gib": card["total_gib"], "device_free_bytes": card["free_bytes"]}  # fmt: skip
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"is no document of predict --json ({type(error).__name__}: {error})"
        raise BadInput(Problem(name, what, "write it anew: loadcheck predict … --json")) from None
    peaks = {} if training is None else measured_peaks(document.get("bytes") or {})
    return Subject(
        name=name,
        kind="prediction",
        model=f"{model['name']} {model['quantization']}",
        settings={} if case is None else _settings(case.profile) | ({} if training is None else flat(training)),
        machine=machine,
        readings={attribute: each for attribute, each in readings.items() if is_compared(attribute)} | peaks,
        as_predicted=frozenset() if case is None else _equal(case, readings) | _equal_peaks(case, training, peaks),
        training=training,
        case=case,
        note="this version of loadcheck does not know its model",
    )


def _training(name: str, document: dict[str, Any]) -> TrainSettings | None:
    """The settings of the training that a document is of; None for a load's."""
    training = document.get("training")
    return None if training is None else validate(TrainSettings, training["settings"], name)


def _equal_peaks(case: Case, training: TrainSettings | None, peaks: Mapping[str, Reading]) -> frozenset[str]:
    terms = {} if training is None else peak_terms(case, training)
    return frozenset(name for name, each in peaks.items() if name in terms and each.value == sum(terms[name].values()))


def _stated(figures: dict[str, Any], exact: dict[str, Any]) -> Iterator[tuple[str, Reading]]:
    """The figures of a document, memory to the byte."""
    for attribute, spec in figure_specs().items():
        value: Value | None = exact.get(attribute, figures.get(spec.name))
        if value is None:
            continue
        if not spec.holds(value):
            raise ValueError(f"{spec.name} is {value!r}")
        yield attribute, Reading(attribute, value, None if spec.kind is Kind.MEMORY else spec.decimals, 0)


def _case(name: str, document: dict[str, Any], readings: Mapping[str, Reading]) -> Case | None:
    """The case that the document is of; None for a model that is not known here."""
    profile = validate(Profile, {**document["settings"], **document["profile"]}, name)
    try:
        model = stack_of(profile).resolve(profile)
    except BadInput:
        return None
    card = document["gpu"]
    case = Case(config=model.config, profile=profile, model_name=model.name)
    if card is None:
        return case
    own = card_from_device(card["name"], card["compute_capability"], int(card["total_bytes"]), int(card["free_bytes"]))
    if (non_torch := readings.get("non_torch_bytes")) is not None:
        own = replace(own, non_torch_bytes=int(non_torch.value))
    return _with_ram(replace(case, card=own), readings.get("swap_bytes"))
