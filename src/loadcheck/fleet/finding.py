"""What is wrong with a node, as far as the fleet goes: its own verdict is one of the kinds."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any


class Kind(Enum):
    """What a node can be found out in."""

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
    Kind.UNREADABLE: "copy its folder again; where it is the same, load it again",
    Kind.REFUSED: "loadcheck doctor on that node says how to mend it",
    Kind.UNPLANNED: "name it in the plan, or take its folder away",
    Kind.VERDICT: "loadcheck report shows all of it",
    Kind.DOUBLED: "keep the one that counts; where you cannot say which, load it again",
    Kind.RETRIED: "look at why the first was lost; to count the second, take the first one's folder away",
    Kind.COPIED: "load that node itself",
    Kind.SAME_CARD: "load each node on its own card",
    Kind.LATE: "load it again, or plan a later time",
    Kind.CLOCK: "set its clock (chronyc makestep), and load it again",
    Kind.CARD: "ask the provider for the card that was planned; or plan the one that is there",
    Kind.IMAGE: "start it by the digest of the plan",
    Kind.LOCK: "start it from the image of the plan",
    Kind.CODE: "load it with the same loadcheck as the others",
    Kind.PROFILE: "load it with the profile of the plan",
    Kind.NODE: "give each node its own folder",
    Kind.UNSEALED: "copy its folder again; where there is no SHA256SUMS, load it again",
    Kind.CHANGED: "copy its folder again; where it is the same, it was edited: load it again",
}


@dataclass(frozen=True, slots=True)
class NodeFinding:
    """One thing that keeps a node, and so the fleet, from a pass. `folder` is below the one that was gathered; "" for none."""

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
