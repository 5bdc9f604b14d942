"""The findings about a node of a fleet; its own verdict is one kind of them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any


class Kind(Enum):
    """What can be wrong with a node."""

    MISSING = "missing"
    UNREADABLE = "unreadable"
    REFUSED = "refused"
    UNPLANNED = "unplanned"
    VERDICT = "verdict"
    DOUBLED = "doubled"
    RETRIED = "retried"
    COPIED = "copied"
    SAME_CARD = "same card"
    LATE = "late"
    CLOCK = "clock"
    CARD = "card"
    IMAGE = "image"
    LOCK = "lock"
    CODE = "code"
    PROFILE = "profile"
    NODE = "node"
    UNSEALED = "unsealed"
    CHANGED = "changed"


REMEDIES = {
    Kind.MISSING: "see the engine's own record of that node; load it again",
    Kind.UNREADABLE: "copy its folder again; if that does not help, load it again",
    Kind.REFUSED: "loadcheck doctor on that node says how to fix it",
    Kind.UNPLANNED: "add it to the plan, or remove its folder",
    Kind.VERDICT: "loadcheck report shows all findings",
    Kind.DOUBLED: "keep the one that counts; if you cannot tell which, load it again",
    Kind.RETRIED: "find out why the first was lost; to count the second, remove the first one's folder",
    Kind.COPIED: "load that node itself",
    Kind.SAME_CARD: "load each node on its own card",
    Kind.LATE: "load it again, or plan a later time",
    Kind.CLOCK: "set its clock (chronyc makestep), and load it again",
    Kind.CARD: "ask the provider for the planned card, or plan the one that the node has",
    Kind.IMAGE: "start it by the plan's digest",
    Kind.LOCK: "start it from the plan's image",
    Kind.CODE: "load it with the same loadcheck as the others",
    Kind.PROFILE: "load it with the plan's profile",
    Kind.NODE: "give each node its own folder",
    Kind.UNSEALED: "copy its folder again; if it has no SHA256SUMS, load it again",
    Kind.CHANGED: "copy its folder again; if that does not help, it was edited: load it again",
}


@dataclass(frozen=True, slots=True)
class NodeFinding:
    """One thing that keeps a node, and so the fleet, from passing. `folder` is relative to the gathered one; "" for none."""

    node: str
    kind: Kind
    what: str
    folder: str = ""

    @property
    def remedy(self) -> str:
        return REMEDIES[self.kind]

    def to_json(self) -> dict[str, Any]:
        return {
            "node": self.node,
            "kind": self.kind.value,
            "what": self.what,
            "remedy": self.remedy,
            "folder": self.folder,
        }
