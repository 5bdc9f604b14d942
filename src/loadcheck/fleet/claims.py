"""Checks what a node's run states about itself against the plan, its own files and the clock."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any

from loadcheck.errors import LoadcheckError, shortlist
from loadcheck.fleet.finding import Kind
from loadcheck.fleet.plan import CPU, FleetPlan
from loadcheck.loading import Loaded
from loadcheck.runs.json_file import MAX_RECORD_BYTES, own_file
from loadcheck.runs.origin import Origin
from loadcheck.specs.profile import settings_by_key

CLOCK_SLACK = timedelta(minutes=5)
"""How far the clocks of a fleet may differ: as much as Kerberos allows (RFC 4120, 3.1.3)."""
STEP_SLACK_S = 5.0
"""How far the wall clock may differ from the monotonic clock over a load; run.json rounds the first."""
NAMED_SETTINGS = 3
ENDED = ("completed", "failed")
"""The outcomes of a load that ended by itself; with any other it was lost."""

Fault = tuple[Kind, str]
"""The kind of a finding, and what was found."""


@dataclass(frozen=True, slots=True)
class Against:
    """What every node is checked against: the plan, with lookups into it, and the time of gathering."""

    now: datetime
    plan: FleetPlan | None = None
    cards: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, plan: FleetPlan | None, now: datetime) -> Against:
        if plan is None:
            return cls(now)
        return cls(now, plan, {node.node: node.card for node in plan.nodes}, settings_by_key(plan.profile))


@dataclass(frozen=True, slots=True)
class Claims:
    """A judged run: `node` is the node that it counts for, `named` the folder that it is in, `card` what it ran on."""

    loaded: Loaded
    node: str
    named: str
    card: str | None


def check_claims(claims: Claims, against: Against) -> Iterator[Fault]:
    yield from _kept_verdict(claims.loaded)
    yield from _clock(claims, against.now)
    if claims.loaded.record.training is not None:
        yield Kind.PROFILE, "it is a training, but a fleet consists of loads"
    if against.plan is not None:
        yield from _node(claims, against)
        yield from _image(claims, against.plan)
        yield from _profile(claims, against)
        yield from _times(claims, against.plan)


def time_of(text: str | None) -> datetime | None:
    """A time in run.json; None if it is invalid or has no time zone."""
    try:
        time = datetime.fromisoformat((text or "").replace("Z", "+00:00"))
        return None if time.tzinfo is None else time.astimezone(timezone.utc)
    except (ValueError, OverflowError):  # OverflowError: years 1 and 9999
        return None


def _kept_verdict(loaded: Loaded) -> Iterator[Fault]:
    """The node's verdict.json must equal the verdict that the same files get here."""
    path = loaded.folder.verdict_path
    try:
        with own_file(path).open("rb") as file:
            stated = json.loads(file.read(MAX_RECORD_BYTES)).get("verdict")
    except FileNotFoundError:
        return
    except (LoadcheckError, OSError, ValueError, AttributeError, RecursionError):
        yield Kind.CHANGED, "verdict.json cannot be read"
        return
    if stated != loaded.verdict.status:
        yield Kind.CHANGED, f"verdict.json says {stated!r}, but judged again the run is {loaded.verdict.status}"


def _clock(claims: Claims, now: datetime) -> Iterator[Fault]:
    record = claims.loaded.record
    start, end = time_of(record.started_at), time_of(record.ended_at)
    if start is None or (end is None and record.ended_at is not None):
        yield Kind.CLOCK, "run.json has no time with a zone"
        return
    if record.outcome in ENDED and (end is None or record.duration_s is None):
        yield Kind.CLOCK, "it has ended, but run.json does not say when, or how long it took"
    for name, time in (("began", start), ("ended", end)):
        if time is not None and time > now + CLOCK_SLACK:
            yield Kind.CLOCK, f"it {name} at {_shown(time)}, which is in the future"
    if end is not None and record.duration_s is not None:
        passed_s = (end - start).total_seconds()
        if abs(passed_s - record.duration_s) > STEP_SLACK_S:
            yield (
                Kind.CLOCK,
                f"from start to end its clock advanced by {passed_s:.0f} s, but the load took {record.duration_s:.0f} s",
            )


def _times(claims: Claims, plan: FleetPlan) -> Iterator[Fault]:
    start, end = time_of(claims.loaded.record.started_at), time_of(claims.loaded.record.ended_at)
    if start is not None and start < plan.created_at - CLOCK_SLACK:
        yield (
            Kind.CLOCK,
            f"it began at {_shown(start)}, before the plan was made ({_shown(plan.created_at)}): an older run, or its clock is wrong",
        )
    last = end or start
    if plan.until is not None and last is not None and last > plan.until:
        yield Kind.LATE, f"it ended at {_shown(last)}, but the plan ends at {_shown(plan.until)}"


def _node(claims: Claims, against: Against) -> Iterator[Fault]:
    """The node must be in the plan, on the planned card, and under its own name."""
    card = against.cards.get(claims.node)
    if card is None:
        yield Kind.UNPLANNED, "the plan has no such node"
    elif claims.card is not None and claims.card != card:
        yield Kind.CARD, f"it ran on {claims.card}, but {card} was planned"
    elif card != CPU and not (claims.loaded.record.machine.get("gpu") or {}).get("uuid"):
        yield Kind.CARD, "run.json does not say which GPU it ran on, so it may be another node's"
    origin = claims.loaded.record.origin
    stated = None if origin is None else origin.node
    fleet = None if origin is None else origin.fleet
    if against.plan is not None and fleet not in (None, against.plan.identity):
        yield Kind.NODE, f"it was started for the fleet {fleet}, but this is {against.plan.identity}"
    if stated != claims.node:
        yield Kind.NODE, f"it is in the folder of {claims.named}, but states that it is {stated or 'of no fleet'}"


def _image(claims: Claims, plan: FleetPlan) -> Iterator[Fault]:
    origin = claims.loaded.record.origin or Origin()
    if plan.digest is not None and origin.image != plan.digest:
        yield (
            Kind.IMAGE,
            f"it was started from {origin.image or 'an unstated image'}, not from {plan.digest}",
        )
    if plan.lock_sha256 is not None and origin.lock_sha256 != plan.lock_sha256:
        yield Kind.LOCK, f"its lock is {origin.lock_sha256 or 'not stated'}, not {plan.lock_sha256}"


def _profile(claims: Claims, against: Against) -> Iterator[Fault]:
    """The settings must be the plan's. A log without any line of a load fails anyway."""
    evidence = claims.loaded.evidence
    if evidence is None or evidence.profile is None:
        return
    mine, other = settings_by_key(evidence.profile), against.settings
    keys = [key for key in dict.fromkeys((*mine, *other)) if mine.get(key) != other.get(key)]
    if keys:
        differ = [f"{key} {mine.get(key)}, not {other.get(key)}" for key in keys]
        yield Kind.PROFILE, shortlist(differ, NAMED_SETTINGS, ", and {} more")


def _shown(time: datetime) -> str:
    return f"{time.astimezone(timezone.utc):%Y-%m-%d %H:%M:%SZ}"
