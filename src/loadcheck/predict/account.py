"""What a prediction is: a load's memory by named terms, its figures, and what keeps it from succeeding."""

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
    """Why a load will fail: in our words, in the engine's own, and what would help.

    Attributes:
        short: what there is too little of, where other settings need less of it; None where no memory would help.
    """

    what: str
    engine_says: str
    remedy: str
    short: Shortage | None = None


@dataclass(frozen=True, slots=True)
class MemoryAccount:
    """Where the bytes of a device go. What takes nothing is no term.

    Attributes:
        peak: at the peak of the load, which answers one short prompt, as a tree of terms that sum.
        full_batch: the same while the engine works on a full batch, answers drawn as the engine does by default.
        sorted_batch: the same with the settings of a request that take the most (top-k, top-p); None where none takes more.
    """

    peak: Term
    full_batch: Term
    sorted_batch: Term | None = None

    @property
    def largest_bytes(self) -> int:
        """The most that the device holds, of the load and of any batch after it: what settings to work with must leave room for."""
        batches = [batch for batch in (self.full_batch, self.sorted_batch) if batch is not None]
        return max(self.peak.num_bytes, *(batch.num_bytes for batch in batches))

    def to_json(self) -> dict[str, float]:
        """The peaks of work after the load, in GiB."""
        busy = max(self.peak.num_bytes, self.full_batch.num_bytes)
        return {
            "busy_peak_gib": round(to_gib(busy), 2),
            "busy_peak_sorted_gib": round(to_gib(self.largest_bytes), 2),
        }

    def sum_bytes(self, names: Iterable[str]) -> int:
        """Of the terms at the peak that have these names."""
        wanted = frozenset(names)
        return sum(part.num_bytes for part in self.peak.parts if part.name in wanted)


@dataclass(frozen=True, slots=True)
class Prediction:
    """Every figure of a load, before it happens.

    Attributes:
        figures: in bytes, tokens and counts; None for what is not predicted of this load.
        account: the device's memory; None for a load of which no more than `figures` is predicted.
        obstacles: what will keep the load from succeeding; empty where it fits.
        notes: what a reader should know about how sure the figures are.
        edges: steps of the engine's settings that this load stands near to, so that a little memory makes it another load.
        warnings: what will go wrong after a load that fits.
    """

    figures: Figures
    account: MemoryAccount | None = None
    obstacles: tuple[Obstacle, ...] = ()
    notes: tuple[str, ...] = ()
    edges: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        """Whether nothing is known to keep the load from going through; `warnings` may say that use after it will not."""
        return not self.obstacles

    @property
    def memory(self) -> MemoryAccount:
        """The account of a load that has one."""
        assert self.account is not None, "this load's memory is not predicted"
        return self.account

    def to_json(self) -> dict[str, Any]:
        """`fits` is null where the memory is not predicted; then there are figures and their bytes alone."""
        figures = {"figures": self.figures.to_json(), "bytes": self.figures.bytes_json()}
        if self.account is None:
            return {"fits": None, **figures}
        return {
            "fits": self.fits,
            **figures,
            "obstacles": [
                {"what": each.what, "engine_says": each.engine_says, "remedy": each.remedy} for each in self.obstacles
            ],
            "notes": [*self.notes, *self.edges],
            "warnings": list(self.warnings),
            **self.account.to_json(),
            "terms": self.account.peak.to_json(),
        }
