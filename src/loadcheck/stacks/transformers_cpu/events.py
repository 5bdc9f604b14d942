"""Events in this engine's own order of fields, which differs from the GPU's in two places."""

from __future__ import annotations

from loadcheck.logs import events


class Attached(events.Attached, frozen=True, kw_only=True, tag="adapters"):
    """See logs/events.py."""

    last = ("attach_s",)


class Trained(events.Trained, frozen=True, kw_only=True, tag="trained"):
    """See logs/events.py."""

    last = ("adapter_changed",)
