"""A prediction: a load's memory by named terms, its figures, and its obstacles."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from loadcheck.figures import Figures
from loadcheck.predict.terms import Term
from loadcheck.specs.trouble import Shortage
from loadcheck.units import to_gib


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why a load will fail: in our words, in the engine's own, and the remedy.

    Attributes:
        short: what runs short, where other settings need less of it; None where memory is not the cause.
    """

    what: str
    engine_says: str
    remedy: str
    short: Shortage | None = None


@dataclass(frozen=True, slots=True)
class MemoryAccount:
    """How a device's memory is used. Empty terms are left out.

    Attributes:
        peak: at the peak of the load, which answers one short prompt, as a tree of terms that sum.
        full_batch: the same while the engine runs a full batch, with the engine's default sampling.
        sorted_batch: the same with the sampling settings that use the most memory (top-k, top-p); None where none uses more.
    """

    peak: Term
    full_batch: Term
    sorted_batch: Term | None = None

    @property
    def largest_bytes(self) -> int:
        """The peak over the load and any batch after it, for which settings must leave room."""
        batches = [batch for batch in (self.full_batch, self.sorted_batch) if batch is not None]
        return max(self.peak.num_bytes, *(batch.num_bytes for batch in batches))

    def to_json(self) -> dict[str, float]:
        """The peaks at work after the load, in GiB."""
        busy = max(self.peak.num_bytes, self.full_batch.num_bytes)
        return {
            "busy_peak_gib": round(to_gib(busy), 2),
            "busy_peak_sorted_gib": round(to_gib(self.largest_bytes), 2),
        }

    def sum_bytes(self, names: Iterable[str]) -> int:
        """The sum of the peak's terms with these names."""
        wanted = frozenset(names)
        return sum(part.num_bytes for part in self.peak.parts if part.name in wanted)


@dataclass(frozen=True, slots=True)
class Prediction:
    """Every figure of a load, before it happens.

    Attributes:
        figures: in bytes, tokens and counts; None for those that are not predicted for this load.
        account: the device's memory; None for a load of which only `figures` are predicted.
        obstacles: why the load will fail; empty where it fits.
        notes: how certain the figures are.
        edges: thresholds of the engine's settings that are so close that a little memory changes the load.
        warnings: what will fail after a load that fits.
    """

    figures: Figures
    account: MemoryAccount | None = None
    obstacles: tuple[Obstacle, ...] = ()
    notes: tuple[str, ...] = ()
    edges: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        """Whether the load has no known obstacle; `warnings` may still say that later use will fail."""
        return not self.obstacles

    @property
    def memory(self) -> MemoryAccount:
        """The account of a load that has one."""
        assert self.account is not None, "this load's memory is not predicted"
        return self.account

    def to_json(self) -> dict[str, Any]:
        """`fits` is null where the memory is not predicted; then there are only figures and their bytes."""
        figures = {"figures": self.figures.to_json(), "bytes": self.figures.bytes_json()}
        if self.account is None:
            return {"fits": None, **figures}
        return {
            "fits": self.fits,
            **figures,
            "obstacles": [
                {"what": obstacle.what, "engine_says": obstacle.engine_says, "remedy": obstacle.remedy}
                for obstacle in self.obstacles
            ],
            "notes": [*self.notes, *self.edges],
            "warnings": list(self.warnings),
            **self.account.to_json(),
            "terms": self.account.peak.to_json(),
        }
