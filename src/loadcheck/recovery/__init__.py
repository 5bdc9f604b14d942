"""`loadcheck load --recover`: when the prediction or the load says that it does not fit, walk the ladder until a load passes."""

from __future__ import annotations

from loadcheck.recovery.attempt import Attempt, Gain, short_of
from loadcheck.recovery.walk import Effects, Recovery, Walked, recover

__all__ = ["Attempt", "Effects", "Gain", "Recovery", "Walked", "recover", "short_of"]
