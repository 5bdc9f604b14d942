"""Events as this engine has always written them: with two fields in another place than a GPU's."""

from __future__ import annotations

from loadcheck.logs import events


class Attached(events.Attached, frozen=True, kw_only=True, tag="adapters"):
    """See logs/events.py."""

    last = ("attach_s",)


class Trained(events.Trained, frozen=True, kw_only=True, tag="trained"):
    """See logs/events.py."""

    last = ("adapter_changed",)
