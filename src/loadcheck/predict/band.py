"""How far a measured figure may differ from its prediction, if it has a band at all."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Band:
    """The range of a figure in its own unit (bytes for memory), and the reason for it."""

    low: float
    high: float
    why: str
