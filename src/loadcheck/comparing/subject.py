"""One of the loads that are compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from loadcheck.figures import Kind, Reading, figure_specs
from loadcheck.predict import Case
from loadcheck.specs.files import flat
from loadcheck.specs.profile import Profile
from loadcheck.specs.training import TrainSettings
from loadcheck.stacks import predict
from loadcheck.units import GIB

_RAM_BYTES = tuple(gib * GIB for gib in range(4, 68, 4))
"""Hosts that are tried for one of whose RAM nothing is known but the swap space."""
MACHINE = ("gpu_name", "gpu_total_bytes", "compute_capability")
"""Figures that say what the card is."""
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


def is_compared(attribute: str) -> bool:
    """Whether a figure is a number that a load's settings, model and card decide: no name, no version and no time."""
    return figure_specs()[attribute].kind not in (Kind.TEXT, Kind.SECONDS) and attribute not in MACHINE


def settings_of(profile: Profile) -> dict[str, Any]:
    """Of a profile, by dotted key; its name and its description are none."""
    return {key: value for key, value in flat(profile).items() if key not in _NOT_SETTINGS}


def equal_to(case: Case, readings: Mapping[str, Reading]) -> frozenset[str]:
    """The readings that are what the case predicts, to their own decimals."""
    predicted = predict(case).figures.known()
    return frozenset(name for name, each in readings.items() if name in predicted and each.agrees(predicted[name]))


def with_ram(case: Case, swap: Reading | None) -> Case:
    """The case on a host with so much RAM that its swap space is as stated, where the RAM itself is not known."""
    if case.ram_available_bytes is not None or case.card is None:
        return case
    hosts = [replace(case, ram_available_bytes=ram_bytes) for ram_bytes in _RAM_BYTES]
    fitting = (host for host in hosts if swap is None or predict(host).figures.swap_bytes == swap.value)
    return next(fitting, hosts[0])
