"""What a training has to be compared by, beside its load: its peaks, and the settings that move them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from loadcheck.errors import BadInput
from loadcheck.figures import Reading
from loadcheck.findings.finding import Status, Verdict
from loadcheck.predict import Case
from loadcheck.specs.files import changed, flat
from loadcheck.specs.training import TrainJob, TrainSettings
from loadcheck.training import Trained
from loadcheck.workloads.peaks import predict_peaks

PEAKS = ("train_peak_allocated_bytes", "train_peak_device_bytes", "train_peak_host_bytes")
_TOLD_APART = ("data", "resume_from", "train_seq_length")
"""Of a job: a path says nothing of what is in it, and the longest row is a setting of its own."""


@lru_cache(maxsize=16)
def peak_terms(case: Case, settings: TrainSettings) -> dict[str, dict[str, int]]:
    """Each peak that is predicted, by terms that sum, in bytes; nothing where the training is not predicted.

    Kept, as following a training takes a tenth of a second, and each end of a comparison is asked for twice.
    """
    if case.profile.on_cpu:
        size = predict_peaks(case, settings).host_bytes
        return {} if size is None else {"train_peak_host_bytes": {"process": size}}
    if case.card is None:
        return {}
    from loadcheck.workloads.training import predict_training  # it takes modules that a load needs not

    training = predict_training(case, settings)
    roots = (training.memory.peak, training.device, training.host)
    return {name: {part.name: part.num_bytes for part in root.parts} for name, root in zip(PEAKS, roots, strict=True)}


def setting_changes(a: TrainSettings, b: TrainSettings) -> Iterator[tuple[str, TrainSettings]]:
    """Each setting of a training that differs, and the settings after it, one after the other; what cannot stand alone is left to the last."""
    settings, other = a, flat(b)
    for key, value in flat(a).items():
        if other[key] != value:
            try:
                settings = changed(settings, {key: other[key]})
            except BadInput:
                continue
            yield f"{key} {value} → {other[key]}", settings


def job_settings(job: TrainJob) -> dict[str, Any]:
    """What a training was asked for, by the flags' own names."""
    named = {key.rpartition(".")[2]: value for key, value in flat(job).items()}
    return {key: value for key, value in named.items() if key not in _TOLD_APART and value is not None}


def longest_batch(trained: Trained) -> TrainSettings | None:
    """The settings with the longest row that came; None where the log does not tell of a training."""
    found = trained.found
    if found is None:
        return None
    longest = max((step.longest_tokens or 0 for step in found.steps), default=0)
    settings = found.job.settings
    return changed(settings, {"train_seq_length": longest}) if longest and settings.method == "sft" else settings


def measured_peaks(sizes: Mapping[str, Any]) -> dict[str, Reading]:
    """The peaks that were measured, or are predicted in a document, to the byte."""
    known = {name: sizes.get(name) for name in PEAKS}
    return {name: Reading(name, size, None, 0) for name, size in known.items() if isinstance(size, int) and size >= 0}


def judged_peaks(verdict: Verdict) -> tuple[frozenset[str], dict[str, str]]:
    """The peaks that are as predicted, and those of them that have a band, with the reason for it."""
    by_name = {each.figure: each for each in verdict.findings}
    found = {name: by_name.get(name.removesuffix("_bytes") + "_gib") for name in PEAKS}
    fine = {name: each for name, each in found.items() if each is not None and each.status is Status.OK}
    banded = {
        name: f"{each.low:g} to {each.high:g} {each.unit}" for name, each in fine.items() if each.low != each.high
    }
    return frozenset(fine), banded
