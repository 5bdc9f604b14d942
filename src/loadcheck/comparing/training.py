"""What a comparison of trainings adds to that of loads: the peaks, and the settings that move them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from loadcheck.errors import BadInput
from loadcheck.figures import Reading
from loadcheck.findings.finding import Status, Verdict
from loadcheck.predict import Case
from loadcheck.specs.files import changed, differences, flat
from loadcheck.specs.training import TrainJob, TrainSettings
from loadcheck.workloads.peaks import predict_peaks

PEAKS = ("train_peak_allocated_bytes", "train_peak_device_bytes", "train_peak_host_bytes")
_NOT_COMPARED = ("data", "resume_from", "train_seq_length")
"""Keys of a job: a path does not tell what a file holds, and the longest row is a setting of its own."""


@lru_cache(maxsize=16)
def peak_terms(case: Case, settings: TrainSettings) -> dict[str, dict[str, int]]:
    """Each predicted peak as terms in bytes that sum; empty if the training is not predicted.

    Cached, as following a training takes a tenth of a second, and both ends of a comparison are needed twice.
    """
    if case.profile.on_cpu:
        size = predict_peaks(case, settings).host_bytes
        return {} if size is None else {"train_peak_host_bytes": {"process": size}}
    if case.card is None:
        return {}
    from loadcheck.workloads.training import predict_training  # imports modules that a load does not need

    training = predict_training(case, settings)
    roots = (training.memory.peak, training.device, training.host)
    return {name: {part.name: part.num_bytes for part in root.parts} for name, root in zip(PEAKS, roots, strict=True)}


def setting_changes(a: TrainSettings, b: TrainSettings) -> Iterator[tuple[str, TrainSettings]]:
    """Each setting of a training that differs, with the settings after the change; a change that is invalid by itself is skipped."""
    settings = a
    for key, (value, other) in differences(a, b).items():
        try:
            settings = changed(settings, {key: other})
        except BadInput:
            continue
        yield f"{key} {value} → {other}", settings


def job_settings(job: TrainJob) -> dict[str, Any]:
    """A training's settings by the names of their flags."""
    named = {key.rpartition(".")[2]: value for key, value in flat(job).items()}
    return {key: value for key, value in named.items() if key not in _NOT_COMPARED and value is not None}


def measured_peaks(sizes: Mapping[str, Any]) -> dict[str, Reading]:
    """The peaks that were measured, or predicted in a document, in exact bytes."""
    known = {name: sizes.get(name) for name in PEAKS}
    return {name: Reading(name, size, None, 0) for name, size in known.items() if isinstance(size, int) and size >= 0}


def judged_peaks(verdict: Verdict) -> tuple[frozenset[str], dict[str, str]]:
    """The peaks that are as predicted, and the bands of those that have one."""
    by_name = {finding.figure: finding for finding in verdict.findings}
    found = {name: by_name.get(name.removesuffix("_bytes") + "_gib") for name in PEAKS}
    fine = {name: finding for name, finding in found.items() if finding is not None and finding.status is Status.OK}
    banded = {
        name: f"{finding.low:g} to {finding.high:g} {finding.unit}"
        for name, finding in fine.items()
        if finding.low != finding.high
    }
    return frozenset(fine), banded
