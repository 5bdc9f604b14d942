"""`loadcheck load --recover`: if a load does not fit, by its prediction or in fact, walks the ladder of settings until a load passes."""

from __future__ import annotations

from loadcheck.recovery.attempt import Attempt, Gain, short_of
from loadcheck.recovery.walk import Effects, Recovery, Walked, recover

__all__ = ["Attempt", "Effects", "Gain", "Recovery", "Walked", "recover", "short_of"]
