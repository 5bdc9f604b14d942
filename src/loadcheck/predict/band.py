"""How far a measured figure may lie from the predicted one, where physics gives it a band at all."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Band:
    """What a figure may be, in its own unit (bytes for memory), and why."""

    low: float
    high: float
    why: str
