"""Whether what was loaded is what was requested: the engine, the quantization, the loader, and the source of the weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from loadcheck.findings.evidence import Evidence
from loadcheck.findings.finding import Check, Finding, Status
from loadcheck.logs.events import WeightsReady
from loadcheck.specs.model import find_model, known_owners
from loadcheck.specs.profile import Profile


def check_request(evidence: Evidence) -> Iterator[Finding]:
    """Every line that states what the engine loaded, against what the user requested and what the stack passes to its engine."""
    yield from _owner(evidence)
    for check in evidence.stack.settings_checks:
        yield from check(evidence)
    if evidence.profile is not None and evidence.process is not None:
        yield from _local(evidence, evidence.profile)


def _owner(evidence: Evidence) -> Iterator[Finding]:
    """A note if a known model's name has another owner: the shape is judged, the weights are unknown."""
    noted: set[str] = set()
    for reading in evidence.attempt.readings_of("model"):
        name = str(reading.value)
        owner, slash, base = name.partition("/")
        if not slash or "/" in base or not owner or owner.startswith((".", "~")) or name in noted:
            continue  # a path, not a hub name
        noted.add(name)
        model = find_model(name)
        if model is not None and owner.lower() not in known_owners(model):
            yield Finding(
                figure="model", check=Check.STACK, status=Status.SKIPPED, measured=name, where=evidence.where(reading.line),
                why=f"{name} is judged as {model.name}, but its owner is none of {', '.join(sorted(known_owners(model)))}: the shape is the same, "
                "the weights are unknown",
            )  # fmt: skip


def _local(evidence: Evidence, profile: Profile) -> Iterator[Finding]:
    """A run of the user's own directory: what was loaded has the name of that directory and came from there."""
    reading = evidence.attempt.reading("model")
    if reading is not None and find_model(profile.model) is None:
        requested, loaded = _directory_name(profile.model), _directory_name(str(reading.value))
        yield evidence.finding(reading, Check.STACK, ok=requested == loaded, predicted=requested,
                               why=f"the run asked for {profile.model}",
                               remedy="another model was loaded than the requested one: load again")  # fmt: skip
    ready = evidence.attempt.last(WeightsReady)
    if ready is not None and ready.source is not None:
        same = ready.source == profile.weights
        yield Finding(figure="weights source", check=Check.STACK, status=Status.OK if same else Status.FAIL, predicted=profile.weights,
                      measured=ready.source, why=f"the run asked for {profile.weights} weights",
                      remedy="" if same else "other weights were loaded than the requested ones: load again")  # fmt: skip


def _directory_name(path: str) -> str:
    """The last component of a directory's path, with links resolved if it is on this machine."""
    try:
        return Path(path).expanduser().resolve().name.lower()
    except (OSError, RuntimeError, ValueError):  # no home directory, a loop of links, an invalid path
        return Path(path).name.lower()
