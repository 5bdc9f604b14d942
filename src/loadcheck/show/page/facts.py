"""What was loaded, with which settings, on which machine, and the command that repeats it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from loadcheck.comparing.evidence import machine_of, versions_of
from loadcheck.errors import BadInput
from loadcheck.runs.record import RunRecord
from loadcheck.specs.files import flat, flat_items
from loadcheck.specs.profile import Profile, load_profile, profile_names, settings_by_key
from loadcheck.specs.settings import load_command, settings_of
from loadcheck.units import show_bytes
from loadcheck.verdict import Evidence

Fact = tuple[str, str]
ONLY_WITH_BUDGET = {"max_lora_rank", *(flag.key for flag in settings_of(Profile) if flag.setting.of_engine)}


def run_facts(record: RunRecord, evidence: Evidence | None) -> Iterator[Fact]:
    """What was loaded, on what, when, by which code, and how it ended."""
    attempt = evidence.attempt if evidence is not None else None
    model, card = (attempt.reading(name) if attempt else None for name in ("model", "gpu_name"))
    facts = {
        "model": model.show() if model else record.profile.get("model"),
        "card": card.show() if card else _gpu_name(record.machine),
        "profile": record.profile.get("name"),
        "started": record.started_at,
        "took": None if record.duration_s is None else f"{record.duration_s:.1f} s",
        "ended": f"{record.outcome}: {record.reason}" if record.reason else record.outcome,
        "commit": record.commit,
        "loadcheck": record.loadcheck,
    }
    yield from ((name, str(value)) for name, value in facts.items() if value not in (None, ""))


def _gpu_name(machine: Mapping[str, Any]) -> object:
    gpu = machine.get("gpu")
    return gpu.get("name") if isinstance(gpu, dict) else "none: on the CPU"


def shown_settings(profile: Profile) -> tuple[tuple[str, str, bool], ...]:
    """The settings that apply: key, value, and whether the value differs from the named profile's."""
    own = _base(profile)
    base = {} if own is None else flat(own)
    return tuple(
        (key, _shown(value), own is not None and base.get(key) != value)
        for key, value in settings_by_key(profile).items()
        if value is not None and (profile.has_budget or key not in ONLY_WITH_BUDGET)
    )


def shown_table(table: Mapping[str, Any]) -> Iterator[tuple[str, str, bool]]:
    """The settings in a record that is no longer a valid profile."""
    for key, value in flat_items(table):
        if key not in ("name", "description") and value != {}:
            yield key, _shown(value), False


def _shown(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def rerun_command(profile: Profile | None) -> str:
    """The command that repeats the load; empty if env/profiles has no profile of this name."""
    base = None if profile is None else _base(profile)
    return "" if base is None or profile is None else load_command(profile, base, base.name)


def _base(profile: Profile) -> Profile | None:
    with suppress(BadInput):
        return load_profile(profile.name) if profile.name in profile_names() else None
    return None


def machine_facts(evidence: Evidence | None, record: RunRecord | None) -> tuple[Fact, ...]:
    """The card, its memory, its driver and the host's RAM before the load, as far as known."""
    facts = {} if evidence is None else dict(machine_of(evidence, record))
    return tuple((_named(name), show_bytes(value) if name.endswith("_bytes") else str(value)) for name, value in facts.items())  # fmt: skip


def _named(name: str) -> str:
    return name.removesuffix("_bytes").replace("_", " ")


def version_facts(evidence: Evidence | None, record: RunRecord | None) -> tuple[Fact, ...]:
    return () if evidence is None else tuple(dict(versions_of(evidence, record)).items())
