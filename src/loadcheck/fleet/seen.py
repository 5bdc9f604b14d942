"""Judges one run folder of a fleet, and keeps what the fleet needs of it: small enough to hold ten thousand of them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from loadcheck.errors import LoadcheckError, Problem, shortlist
from loadcheck.figures import Kind as FigureKind
from loadcheck.figures import figure_specs
from loadcheck.findings.finding import Finding, Verdict
from loadcheck.fleet.claims import ENDED, Against, Claims, check_claims, time_of
from loadcheck.fleet.finding import Kind, NodeFinding
from loadcheck.fleet.plan import CPU, FleetPlan
from loadcheck.fleet.seal import REFUSED, SEAL, broken_seal, is_sealed, refuse_foreign, text_sha256_of
from loadcheck.loading import Loaded, judge_folder
from loadcheck.runs.json_file import MAX_RECORD_BYTES, own_file
from loadcheck.specs.gpu import find_gpu

MAX_WORDS = 500
"""The most characters of a finding."""
MAX_VALUE = 100
"""The most characters of a figure's value."""
NAMED_FAILURES = 3
"""How many failures of a node are listed; `loadcheck report` shows all."""


@dataclass(frozen=True, slots=True)
class SeenFigure:
    """A figure as a node's log prints it, and as predicted for that node (None if it is not)."""

    name: str
    measured: str
    predicted: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A judged run folder.

    Attributes:
        folder: its path relative to the gathered folder.
        status: of its verdict: pass, fail, refused or skipped.
        ended: whether its process ended by itself; otherwise it was lost.
        card: its key in env/gpus.toml, or the device name of an unknown card, or "cpu"; None if not stated.
        code: the version and the commit of the loadcheck that ran it; None for a folder that cannot be read.
        log_digest: the hash of load.log, which is unique, as no two loads take the same seconds.
        moments: the start and the end to the microsecond, and the free RAM in bytes; None if run.json lacks one of them. The start
            and the free RAM alone may coincide: of 146 pairs of workers of one host, one did (2 cores, 68afd1a).
    """

    folder: str
    node: str
    status: str
    ended: bool
    card: str | None = None
    gpu_uuid: str | None = None
    image: str | None = None
    lock_sha256: str | None = None
    code: str | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    duration_s: float | None = None
    log_digest: bytes | None = None
    moments: tuple[datetime, datetime, int] | None = None
    figures: tuple[SeenFigure, ...] = ()
    findings: tuple[NodeFinding, ...] = ()

    @property
    def passed(self) -> bool:
        return self.status == "pass" and not self.findings


def examine(root: Path, folder: str, against: Against) -> Seen:
    """Judge the run folder `root`/`folder`. It never raises because of a folder's content: what cannot be read is a finding."""
    parts = folder.split("/")
    named = next((part for part in parts if part in against.cards), parts[0])
    path = root / folder
    try:
        return _examined(path, folder, named, against)
    except (LoadcheckError, OSError, ValueError, RecursionError) as error:
        what = _without_remedy(error.problems[0]) if isinstance(error, LoadcheckError) else str(error)
    except Exception as error:  # probably a bug of ours, but it must not keep the other nodes from being judged
        what = f"loadcheck itself failed at it: {type(error).__name__}: {error}"
    node = named if folder != "." else path.resolve().name
    why = _why_refused(path)
    finding = NodeFinding(node, Kind.UNREADABLE if why is None else Kind.REFUSED, _cut(why or what), folder)
    return Seen(folder=folder, node=node, status="fail", ended=False, findings=(finding,))


def _examined(path: Path, folder: str, named: str, against: Against) -> Seen:
    refuse_foreign(path)
    loaded = judge_folder(path)
    broken = tuple(broken_seal(path)) if is_sealed(path) else ()
    digest = text_sha256_of(path / "load.log") if loaded.evidence else None
    seen = _seen(loaded, folder, named, against.plan, digest)
    claims = Claims(loaded, seen.node, named, seen.card)
    found = [
        *_own_verdict(loaded.verdict),
        *check_claims(claims, against),
        *_seal_findings(path, broken, against.plan),
    ]
    return replace(seen, findings=tuple(NodeFinding(seen.node, kind, _cut(what), folder) for kind, what in found))


def _without_remedy(problem: Problem) -> str:
    """A problem in words without its remedy, as that of a fleet differs."""
    return ": ".join(word for word in (problem.where.rpartition("/")[2], problem.key, problem.what) if word)


def _cut(text: str) -> str:
    """The text truncated to MAX_WORDS, as the findings of all nodes are kept in memory."""
    return text if len(text) <= MAX_WORDS else f"{text[:MAX_WORDS]}…"


def _why_refused(path: Path) -> str | None:
    """Why a load was refused, by its node's refused.json; None without one."""
    try:
        with own_file(path / REFUSED).open("rb") as file:
            why = json.loads(file.read(MAX_RECORD_BYTES))["why"]
        return "; ".join(map(str, why)) or None
    except (LoadcheckError, OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _seen(loaded: Loaded, folder: str, named: str, plan: FleetPlan | None, digest: bytes | None) -> Seen:
    record = loaded.record
    origin, gpu = record.origin, record.machine.get("gpu")
    start, end, ram = time_of(record.started_at), time_of(record.ended_at), record.machine.get("ram_available_bytes")
    stated = folder if origin is None or origin.node is None else origin.node
    return Seen(
        folder=folder,
        node=stated if plan is None else named,
        status=loaded.verdict.status,
        ended=record.outcome in ENDED,
        card=card_of(loaded),
        gpu_uuid=_uuid(gpu),
        image=None if origin is None else origin.image,
        lock_sha256=None if origin is None else origin.lock_sha256,
        code=" ".join(("loadcheck", record.loadcheck, *([record.commit] if record.commit else []))),
        started_at=start,
        ended_at=end,
        moments=None if start is None or end is None or ram is None else (start, end, ram),
        duration_s=record.duration_s,
        log_digest=digest,
        figures=tuple(_figures(loaded)),
    )


def _uuid(gpu: Mapping[str, Any] | None) -> str | None:
    """The GPU's UUID; None if it is missing or invalid."""
    uuid = None if gpu is None else gpu.get("uuid")
    return uuid.strip() if isinstance(uuid, str) and 0 < len(uuid) <= MAX_VALUE else None


def card_of(loaded: Loaded) -> str | None:
    """The card by the log, which is what is judged; by run.json if the log ends before stating it."""
    if loaded.record.profile.get("engine") == "cpu":
        return CPU
    printed = None if loaded.evidence is None else loaded.evidence.attempt.figures.gpu_name
    gpu = loaded.record.machine.get("gpu")
    name = printed or (None if gpu is None else gpu["name"])
    return None if name is None else find_gpu(name) or str(name)


def _figures(loaded: Loaded) -> Iterator[SeenFigure]:
    """The figures without times, which always differ, and without the card's name, by which nodes are grouped."""
    evidence = loaded.evidence
    if evidence is None:
        return
    predicted = evidence.predicted
    for attribute, spec in figure_specs().items():
        reading = evidence.attempt.reading(attribute)
        if reading is None or spec.kind is FigureKind.SECONDS or attribute == "gpu_name":
            continue
        wanted = None if predicted is None else getattr(predicted, attribute)
        measured = reading.show().rstrip("/").rsplit("/", 1)[-1]  # only the last component of a model's path
        yield SeenFigure(
            spec.name, measured[:MAX_VALUE], None if wanted is None else spec.show(wanted, reading.decimals)
        )


def _own_verdict(verdict: Verdict) -> Iterator[tuple[Kind, str]]:
    if verdict.passed:
        return
    failures = [_in_words(finding) for finding in verdict.failures()]
    named = shortlist(failures, NAMED_FAILURES, "; and {} more", "; ") or "nothing could be compared"
    yield Kind.VERDICT, f"{verdict.status}: {named}"


def _in_words(finding: Finding) -> str:
    subject = finding.trouble or finding.figure
    if finding.measured is not None and finding.predicted is not None and finding.trouble is None:
        return f"{subject} is {finding.measured}, not {finding.predicted}"
    return f"{subject}: {finding.why}" if finding.why else subject


def _seal_findings(path: Path, broken: tuple[str, ...], plan: FleetPlan | None) -> Iterator[tuple[Kind, str]]:
    if os.path.lexists(path / REFUSED):
        yield Kind.CHANGED, f"it has both run.json and {REFUSED}, which contradict each other"
    if broken:
        yield Kind.CHANGED, "; ".join(broken)
    elif plan is not None and not is_sealed(path):
        yield Kind.UNSEALED, f"there is no {SEAL}: the node or its upload did not finish"
