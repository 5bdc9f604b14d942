"""Synthetic fleets: run folders of nodes, copied from golden runs, each of which passes by itself."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from loadcheck.fleet.plan import NAME, FleetPlan, PlannedCard, PlannedNode, write_plan
from loadcheck.fleet.seal import seal
from loadcheck.runs.origin import lock_sha256
from loadcheck.specs.files import validate
from loadcheck.specs.profile import Profile
from tests.conftest import RUNS

SOURCES = {"H200": RUNS / "h200" / "reference"}
DIGEST = "sha256:" + "a" * 64
STARTED = datetime(2026, 11, 24, 9, 0, tzinfo=timezone.utc)
SECONDS = b"took 18.40 seconds"
"""In the log; replaced by a different duration for each node."""


def plan_of(nodes: Sequence[str], card: str = "H200", **changes: Any) -> FleetPlan:
    record = json.loads((SOURCES[card] / "run.json").read_text(encoding="utf-8"))
    return FleetPlan(**{
        "name": "test", "engine": "local", "created_at": STARTED - timedelta(minutes=1),
        "until": STARTED + timedelta(hours=2), "image": f"registry.example/loadcheck@{DIGEST}", "lock_sha256": lock_sha256(),
        "profile": validate(Profile, record["profile"], "run.json"),
        "cards": (PlannedCard(card=card, price_per_hour=3.6),),
        "nodes": tuple(PlannedNode(node=node, card=card, price_per_hour=3.6) for node in nodes), **changes,
    })  # fmt: skip


class Node:
    """The folder of one node after its run. Tests change it and seal it again."""

    def __init__(self, root: Path, name: str, number: int, attempt: str = "1", card: str = "H200") -> None:
        self.name, self.path = name, root / name / attempt
        self.path.mkdir(parents=True)
        log = (SOURCES[card] / "load.log").read_bytes()
        assert SECONDS in log
        (self.path / "load.log").write_bytes(
            log.replace(SECONDS, b"took %d.%02d seconds" % (18 + number // 100, number % 100))
        )
        record = json.loads((SOURCES[card] / "run.json").read_text(encoding="utf-8"))
        started = STARTED + timedelta(microseconds=number)
        record["started_at"], record["ended_at"] = str(started), str(started + timedelta(seconds=record["duration_s"]))
        record["origin"] = {"node": name, "image": DIGEST, "lock_sha256": lock_sha256()}
        record["machine"]["gpu"]["uuid"] = f"GPU-{number:08x}"
        self.write(record)

    @property
    def record(self) -> dict[str, Any]:
        data: dict[str, Any] = json.loads((self.path / "run.json").read_text(encoding="utf-8"))
        return data

    def write(self, record: dict[str, Any]) -> None:
        """Write run.json, and seal the folder."""
        (self.path / "run.json").write_text(json.dumps(record), encoding="utf-8")
        seal(self.path)

    def change(self, **changes: Any) -> None:
        """Change keys of run.json; "__" separates nested keys."""
        record = self.record
        for key, value in changes.items():
            *tables, last = key.split("__")
            table = record
            for name in tables:
                table = table[name]
            table[last] = value
        self.write(record)

    def edit(self, old: bytes, new: bytes) -> None:
        """Replace bytes in load.log, and seal the folder."""
        log = self.path / "load.log"
        assert old in log.read_bytes()
        log.write_bytes(log.read_bytes().replace(old, new))
        seal(self.path)


def names(count: int) -> list[str]:
    return [f"h200-{number}" for number in range(count)]


def fleet(root: Path, count: int) -> list[Node]:
    """A fleet of `count` nodes that all pass, and its plan."""
    write_plan(plan_of(names(count)), root / NAME)
    return list(nodes(root, count))


def nodes(root: Path, count: int) -> Iterator[Node]:
    for number, name in enumerate(names(count)):
        yield Node(root, name, number)
