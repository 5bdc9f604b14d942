"""fleet.json: the plan of a fleet, against which its run folders are checked."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from loadcheck.errors import BadInput, Problem
from loadcheck.runs.json_file import write_json
from loadcheck.runs.origin import DIGEST
from loadcheck.specs.files import Spec, validate
from loadcheck.specs.profile import Profile

NAME = "fleet.json"
CPU = "cpu"
"""The `card` of a node without one."""
MAX_BYTES = 64 * 1024 * 1024
"""Far larger than a plan of 100,000 nodes, so that a hostile one cannot fill memory."""

Engine = Literal["local", "kubernetes", "skypilot", "slurm", "ray"]
HERE = ("local",)
FleetName = Annotated[
    str,
    Meta(
        pattern=r"^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$",
        description="at most 40 lower-case letters, digits and hyphens, beginning with a letter",
    ),
]
"""It begins the names of clusters and jobs, which may have at most 63 characters."""
NodeName = Annotated[
    str,
    Meta(
        pattern=r"^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$",
        description="at most 63 lower-case letters, digits, dots and hyphens",
    ),
]
"""A name as Kubernetes and DNS require it (RFC 1123), which is also safe in a path."""
Price = Annotated[float, Meta(gt=0, le=10_000)]


class PlannedCard(Spec, frozen=True, kw_only=True):
    """One kind of card. `predicted` is by JSON name; `price_per_hour` is that of its cheapest node, in the plan's currency."""

    card: str
    price_per_hour: Price | None = None
    predicted: dict[str, Any] = {}


class PlannedNode(Spec, frozen=True, kw_only=True):
    """A node with its card ("cpu" for none). `unit` is the group that the engine starts at once; `host` is the requested machine."""

    node: NodeName
    card: str
    unit: NodeName = "nodes"
    host: NodeName | None = None
    price_per_hour: Price | None = None


class FleetPlan(Spec, frozen=True, kw_only=True):
    """One image and one profile on these nodes.

    Attributes:
        created_at: when it was planned; a run that began earlier is of another plan, or its clock is wrong.
        until: when a run must have ended; None for no limit.
        image: by digest, HOST/PATH@sha256:…; None if the engine runs the installed environment.
        lock_sha256: of the lock that every node must have.
        arguments: for `loadcheck load` on every node: the profile's name, and flags.
        results: the folder or bucket that every node writes into.
        minutes: the time limit of a node, including its start.
        retries: how often a lost node is started again.
        options: the engine's own options (spec.py).
    """

    schema: Literal[1] = 1
    name: FleetName
    engine: Engine
    created_at: datetime
    until: datetime | None = None
    image: str | None = None
    lock_sha256: str | None = None
    profile: Profile
    cards: tuple[PlannedCard, ...]
    nodes: tuple[PlannedNode, ...]
    arguments: tuple[str, ...] = ()
    results: str = "results"
    minutes: int = 60
    retries: int = 0
    options: dict[str, Any] = {}

    def __post_init__(self) -> None:
        names = [node.node for node in self.nodes]
        if len(set(names)) != len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"two nodes are called {twice}; give each its own name")
        if "@" in (self.image or "") and DIGEST.fullmatch(self.digest or "") is None:
            raise ValueError("its image has no digest of SHA-256; write it as HOST/PATH@sha256:…")
        if self.created_at.tzinfo is None or (self.until is not None and self.until.tzinfo is None):
            raise ValueError("a time has no zone; write it with one, such as 2026-11-29T12:00:00Z")

    @property
    def digest(self) -> str | None:
        """The image's digest, "sha256:…"."""
        return None if self.image is None else self.image.partition("@")[2]

    @property
    def identity(self) -> str:
        """Distinguishes its runs from those of another plan, even for the same nodes; nodes get it as LOADCHECK_FLEET."""
        return f"{self.name}-{self.created_at.astimezone(timezone.utc):%Y%m%dT%H%M%SZ}"

    @property
    def is_of_this_host(self) -> bool:
        return self.engine in HERE

    def units(self) -> dict[str, tuple[PlannedNode, ...]]:
        """The nodes by unit; those of a unit differ only in their number."""
        found: dict[str, tuple[PlannedNode, ...]] = {}
        for node in self.nodes:
            found[node.unit] = (*found.get(node.unit, ()), node)
        return found


def write_plan(plan: FleetPlan, path: Path) -> None:
    write_json(path, msgspec.to_builtins(plan))


def read_plan(path: Path) -> FleetPlan:
    """Read a plan; BadInput if it is missing or invalid."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 1)
        if len(text) > MAX_BYTES:
            raise ValueError(f"is larger than {MAX_BYTES} bytes")
        data = json.loads(text)
    except OSError as error:
        what = f"cannot be read ({error.strerror})"
        raise BadInput(Problem(str(path), what, "give the path of fleet.json with --plan")) from None
    except (ValueError, RecursionError) as error:
        raise BadInput(Problem(str(path), f"not a plan ({error})", "make it with loadcheck fleet plan")) from None
    return validate(FleetPlan, data, str(path))
