"""One real load of a recovery: what it was short of, and its measured figures against the predicted ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from loadcheck.errors import EXIT_FAIL
from loadcheck.figures import Reading, figure_specs
from loadcheck.loading import Loaded
from loadcheck.predict.search import Search
from loadcheck.preparing import Prepared
from loadcheck.specs.profile import Profile
from loadcheck.specs.trouble import Shortage
from loadcheck.stacks import stack_of
from loadcheck.units import to_gib
from loadcheck.verdict.diagnosis import sightings

RETRY = "retry"
"""The trouble of unsloth's own second try; the trouble that caused it is reported as well."""
COMPARED = (
    "kv_estimate_bytes", "activation_peak_bytes", "kv_cache_bytes", "cuda_graph_bytes", "lora_slots_bytes", "adapter_bytes",
    "peak_device_bytes",
)  # fmt: skip
"""The figures that a step of the ladder may change."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One real load. `short` is what it was short of; None if it passed, or failed for another reason."""

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
        """A figure in its log; of the first try, if unsloth tried again with settings other than the profile's."""
        evidence = self.loaded.evidence
        return None if evidence is None else evidence.log.attempts[0].reading(attribute)

    def band(self, attribute: str) -> float:
        """By how many bytes the figure may differ from its prediction (stacks/unsloth_vllm/bands.py); 0 if it is predicted to the digit."""
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
    """How a figure changed from earlier settings to those that passed, in bytes.

    Attributes:
        before: the number of the earlier attempt; None for settings that were refused, whose figures are only predicted.
        measured_bytes: None if one of the two logs lacks the figure.
        agrees: whether measured and predicted change agree within the precision of the logs and the bands; None likewise.
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
    """What a failed load was short of; None if it passed, or other settings would not help.

    It counts only if all known troubles of the failure are shortages of memory: not troubles of the machine or of files, not unknown ones, and
    not an end by the user or the system.
    """
    ended = loaded.record.outcome in ("completed", "failed") and loaded.exit_code == EXIT_FAIL
    if loaded.evidence is None or not ended:
        return None
    troubles = [sighting.trouble for sighting in sightings(loaded.evidence.log) if sighting.trouble.id != RETRY]
    if any(trouble.short is None for trouble in troubles):
        return None
    return troubles[0].short if troubles else None


def search_of(prepared: Prepared) -> Search:
    """A search over predictions of this load's model on its card."""
    return Search(stack_of(prepared.plan.profile), prepared.case)


def measured_left(attempt: Attempt, short: Shortage) -> int | None:
    """How many bytes of it were left, by the attempt's own log; None if the log does not tell."""
    search = search_of(attempt.prepared)
    need, reading = search.stack.needs(search.case).get(short), attempt.reading(f"{short}_bytes")
    return None if need is None or reading is None else int(reading.value) - need


def gains(before: Attempt | Prepared, after: Attempt) -> Iterator[Gain]:
    """Every figure that is predicted to change between two loads, and how it did change; the first may have been refused."""
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
    # refused settings have no log, so their predicted figures are used
    first = before.reading(attribute) if isinstance(before, Attempt) else Reading(attribute, was, None, 0)
    last = after.reading(attribute)
    if first is None or last is None:
        return Gain(attribute, number, became - was, None, None)
    measured = int(last.value) - int(first.value)
    slack = first.tolerance + last.tolerance + after.band(attribute) + 1
    if isinstance(before, Attempt):
        slack += before.band(attribute)
    return Gain(attribute, number, became - was, measured, abs(measured - (became - was)) <= slack)
