"""Reads a document of `predict --json` as a Subject of a comparison."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from loadcheck.comparing.subject import Subject, equal_to, is_compared, with_ram
from loadcheck.comparing.training import measured_peaks, peak_terms
from loadcheck.disk import read_at_most
from loadcheck.errors import BadInput, Problem
from loadcheck.figures import Kind, Reading, Value, figure_specs
from loadcheck.predict import Case, card_from_device
from loadcheck.specs.files import flat, validate
from loadcheck.specs.profile import Profile, settings_by_key
from loadcheck.specs.training import TrainSettings
from loadcheck.stacks import stack_of

MAX_DOCUMENT_BYTES = 4 * 1024 * 1024
"""Far larger than any document of `predict --json`, so that a hostile file cannot fill memory."""


def read_document(path: Path) -> dict[str, Any] | None:
    """The JSON of a prediction; None for any other file."""
    with suppress(OSError, ValueError, RecursionError):
        document = json.loads(read_at_most(path, MAX_DOCUMENT_BYTES))
        if isinstance(document, dict) and {"fits", "figures", "settings"} <= document.keys():
            return document
    return None


def of_document(name: str, document: dict[str, Any]) -> Subject:
    """The Subject of a document; BadInput if it is not as `predict --json` writes it."""
    try:
        readings = dict(_stated(document["figures"], document.get("bytes") or {}))
        case = _case(name, document, readings)
        training = _training(name, document)
        model = document["model"]
        card = document["gpu"]
        machine = {} if card is None else {"gpu_name": card["name"], "compute_capability": card["compute_capability"],
                                           "gpu_total_gib": card["total_gib"], "device_free_bytes": card["free_bytes"]}  # fmt: skip
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"is not a document of predict --json ({type(error).__name__}: {error})"
        raise BadInput(Problem(name, what, "write it again: loadcheck predict … --json")) from None
    peaks = {} if training is None else measured_peaks(document.get("bytes") or {})
    return Subject(
        name=name,
        kind="prediction",
        model=f"{model['name']} {model['quantization']}",
        settings={} if case is None else settings_by_key(case.profile) | ({} if training is None else flat(training)),
        machine=machine,
        readings={attribute: reading for attribute, reading in readings.items() if is_compared(attribute)} | peaks,
        as_predicted=frozenset() if case is None else equal_to(case, readings) | _equal_peaks(case, training, peaks),
        training=training,
        case=case,
        note="this version of loadcheck does not know its model",
    )


def _training(name: str, document: dict[str, Any]) -> TrainSettings | None:
    """The settings of a training's document; None for a load's."""
    training = document.get("training")
    return None if training is None else validate(TrainSettings, training["settings"], name)


def _equal_peaks(case: Case, training: TrainSettings | None, peaks: Mapping[str, Reading]) -> frozenset[str]:
    terms = {} if training is None else peak_terms(case, training)
    return frozenset(name for name, peak in peaks.items() if name in terms and peak.value == sum(terms[name].values()))


def _stated(figures: dict[str, Any], exact: dict[str, Any]) -> Iterator[tuple[str, Reading]]:
    """The figures of a document; memory is exact to the byte."""
    for attribute, spec in figure_specs().items():
        value: Value | None = exact.get(attribute, figures.get(spec.name))
        if value is None:
            continue
        if not spec.holds(value):
            raise ValueError(f"{spec.name} is {value!r}")
        yield attribute, Reading(attribute, value, None if spec.kind is Kind.MEMORY else spec.decimals, 0)


def _case(name: str, document: dict[str, Any], readings: Mapping[str, Reading]) -> Case | None:
    """The case of the document; None for an unknown model."""
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
    return with_ram(replace(case, card=own), readings.get("swap_bytes"))
