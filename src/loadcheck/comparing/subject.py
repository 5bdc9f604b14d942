"""One of the two loads in a comparison."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from loadcheck.figures import Kind, Reading, figure_specs
from loadcheck.predict import Case
from loadcheck.specs.training import TrainSettings
from loadcheck.stacks import predict
from loadcheck.units import GIB

_RAM_BYTES = tuple(gib * GIB for gib in range(4, 68, 4))
"""Amounts of RAM that are tried for a host of which only the swap space is known."""
MACHINE = ("gpu_name", "gpu_total_bytes", "compute_capability")
"""The figures that identify the card."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is known of one load.

    Attributes:
        name: the path that the user gave.
        kind: run, training, log or prediction.
        ending: completed, failed, killed, …; None for a prediction.
        model: the model with its quantization; None if the log does not state it.
        settings: of its profile, by dotted key; empty if unknown.
        versions, machine: by name.
        readings: every number that it states except times, by the figure's attribute.
        as_predicted: the figures among them that `case` predicts to the printed digit or within their band.
        banded: the figures with a band, and the reason for it.
        case: the case from which its figures are predicted; None if it is not fully known.
        note: why there is no case.
        training: the settings of a training, with its longest row; None for a load.
        again: whether it is a second attempt in one process, which starts with the memory that the first one left.
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


def is_compared(attribute: str) -> bool:
    """Whether a figure is a number that the load's settings, model and card determine, rather than a name, a version or a time."""
    return figure_specs()[attribute].kind not in (Kind.TEXT, Kind.SECONDS) and attribute not in MACHINE


def equal_to(case: Case, readings: Mapping[str, Reading]) -> frozenset[str]:
    """The readings that equal the case's prediction at their own precision."""
    predicted = predict(case).figures.known()
    return frozenset(
        name for name, reading in readings.items() if name in predicted and reading.agrees(predicted[name])
    )


def with_ram(case: Case, swap: Reading | None) -> Case:
    """The case; if its RAM is unknown, with an amount of RAM that gives the stated swap space."""
    if case.ram_available_bytes is not None or case.card is None:
        return case
    hosts = [replace(case, ram_available_bytes=ram_bytes) for ram_bytes in _RAM_BYTES]
    fitting = (host for host in hosts if swap is None or predict(host).figures.swap_bytes == swap.value)
    return next(fitting, hosts[0])
