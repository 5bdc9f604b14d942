"""One real load of a recovery: what it was short of, and what it measured beside what was predicted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from loadcheck.errors import EXIT_FAIL
from loadcheck.figures import Reading, figure_specs
from loadcheck.loading import Loaded
from loadcheck.predict.search import Search
from loadcheck.predict.stack import Amounts
from loadcheck.preparing import Prepared
from loadcheck.specs.profile import Profile
from loadcheck.specs.trouble import Shortage
from loadcheck.stacks import stack_of
from loadcheck.units import to_gib
from loadcheck.verdict.diagnosis import sightings

RETRY = "retry"
"""unsloth's own second try: the trouble that it had is named beside it."""
COMPARED = (
    "kv_estimate_bytes", "activation_peak_bytes", "kv_cache_bytes", "cuda_graph_bytes", "lora_slots_bytes", "adapter_bytes",
    "peak_device_bytes",
)  # fmt: skip
"""The figures that a step moves."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One real load. `short` is what it had too little of; None where it passed, or where that is not what failed it."""

    number: int
    prepared: Prepared
    loaded: Loaded
    short: Shortage | None

    @property
    def profile(self) -> Profile:
        return self.prepared.plan.profile

    @property
    def passed(self) -> bool:
        return self.loaded.verdict.passed

    def reading(self, attribute: str) -> Reading | None:
        """What its log says of a figure: of the first try, where unsloth tried again with other settings than the profile's."""
        evidence = self.loaded.evidence
        return None if evidence is None else evidence.log.attempts[0].reading(attribute)

    def band(self, attribute: str) -> float:
        """By how much the figure may be off its prediction (stacks/unsloth_vllm/bands.py), in bytes; 0 where it is predicted to the digit."""
        bands = self.loaded.evidence.bands if self.loaded.evidence is not None else None
        band = (bands or {}).get(attribute)
        return 0.0 if band is None else (band.high - band.low) / 2

    def to_json(self) -> dict[str, Any]:
        record = self.loaded.record
        return {
            "attempt": self.number,
            "run": str(self.loaded.folder.path),
            "outcome": record.outcome,
            "reason": record.reason,
            "verdict": self.loaded.verdict.status,
            "short": self.short,
        }


@dataclass(frozen=True, slots=True)
class Gain:
    """How a figure changed from the settings before to those that passed, in bytes.

    Attributes:
        before: the attempt compared with; None for settings that were refused, whose figures are predicted.
        measured_bytes: None where one of the two logs does not say the figure.
        agrees: whether the two are the same as far as the logs print them and the prediction claims; None likewise.
    """

    attribute: str
    before: int | None
    predicted_bytes: int
    measured_bytes: int | None
    agrees: bool | None

    @property
    def name(self) -> str:
        return figure_specs()[self.attribute].name

    def to_json(self) -> dict[str, Any]:
        measured = self.measured_bytes
        return {
            "figure": self.name,
            "before": "predicted" if self.before is None else f"attempt {self.before}",
            "predicted_gain_gib": round(to_gib(self.predicted_bytes), 4),
            "measured_gain_gib": None if measured is None else round(to_gib(measured), 4),
            "agrees": self.agrees,
        }


def short_of(loaded: Loaded) -> Shortage | None:
    """What a load that did not pass had too little of; None where it passed, or where other settings would not fix it.

    Only a failure whose every known trouble is one of memory counts: not one of the machine or of the files, not one that nobody
    knows, and not an end that the user or the system brought about.
    """
    ended = loaded.record.outcome in ("completed", "failed") and loaded.exit_code == EXIT_FAIL
    if loaded.evidence is None or not ended:
        return None
    troubles = [each.trouble for each in sightings(loaded.evidence.log) if each.trouble.id != RETRY]
    if any(trouble.short is None for trouble in troubles):
        return None
    return troubles[0].short if troubles else None


def search_of(prepared: Prepared) -> Search:
    """Predictions of this load's model on this load's card."""
    return Search(stack_of(prepared.plan.profile), prepared.case)


def predicted_left(prepared: Prepared) -> Amounts:
    """What was predicted to be left."""
    return search_of(prepared).left(prepared.plan.profile, prepared.prediction)


def measured_left(attempt: Attempt, short: Shortage) -> int | None:
    """What was left of it, in bytes, by the attempt's own log; None where the log does not say."""
    search = search_of(attempt.prepared)
    need, reading = search.stack.needs(search.case).get(short), attempt.reading(f"{short}_bytes")
    return None if need is None or reading is None else int(reading.value) - need


def gains(before: Attempt | Prepared, after: Attempt) -> Iterator[Gain]:
    """Every figure that is predicted to change between two settings, and how it did; the first may have been refused."""
    prepared = before.prepared if isinstance(before, Attempt) else before
    for attribute in COMPARED:
        was, became = (
            getattr(prepared.prediction.figures, attribute),
            getattr(after.prepared.prediction.figures, attribute),
        )
        if was is not None and became is not None and was != became:
            yield _gain(attribute, before, was, after, became)


def _gain(attribute: str, before: Attempt | Prepared, was: int, after: Attempt, became: int) -> Gain:
    number = before.number if isinstance(before, Attempt) else None
    # settings that were refused have no log: they count as predicted
    first = before.reading(attribute) if isinstance(before, Attempt) else Reading(attribute, was, None, 0)
    last = after.reading(attribute)
    if first is None or last is None:
        return Gain(attribute, number, became - was, None, None)
    measured = int(last.value) - int(first.value)
    slack = first.tolerance + last.tolerance + after.band(attribute) + 1
    if isinstance(before, Attempt):
        slack += before.band(attribute)
    return Gain(attribute, number, became - was, measured, abs(measured - (became - was)) <= slack)
