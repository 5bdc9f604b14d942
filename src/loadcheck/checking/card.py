"""Which card a log is of, and the golden ranges that were measured on it."""

from __future__ import annotations

from pathlib import Path

from loadcheck.errors import BadInput, Problem
from loadcheck.logs import Attempt
from loadcheck.specs.expected import Expected, load_expected
from loadcheck.specs.files import value_at
from loadcheck.specs.gpu import find_gpu, gpu_named
from loadcheck.specs.profile import Profile


def named_card(requested: str | None, known: str | None, target: Path) -> str | None:
    """The key of the requested card, or of the known one; BadInput if the requested one is not the log's."""
    if requested is None:
        return known
    key = gpu_named(requested)[0]
    if known is not None and known != key:
        raise BadInput(
            Problem(str(target), f"is the log of a load on {known}, not on {key}", "leave --gpu out", "--gpu")
        )
    return key


def card_of_log(attempt: Attempt, profile: Profile | None) -> str | None:
    """The key of the card that the log names; None if it is not in env/gpus.toml."""
    if profile is not None and profile.on_cpu:
        return "cpu"
    reading = attempt.reading("gpu_name")
    return find_gpu(str(reading.value)) if reading else None


def golden_ranges(profile: Profile | None, gpu: str | None) -> Expected | None:
    """The golden ranges, if they were measured with exactly this profile's settings."""
    if profile is None or gpu is None or (expected := load_expected(profile.name, gpu)) is None:
        return None
    same = all(value_at(profile, key) == value for key, value in expected.settings.items())
    return expected if same else None
