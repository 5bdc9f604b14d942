"""`loadcheck fleet gather`: judges run folders and combines them into one verdict, keeping a few hundred bytes per node."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

from loadcheck.errors import BadInput, Problem, UnsupportedMachine
from loadcheck.fleet.claims import Against
from loadcheck.fleet.finding import Kind, NodeFinding
from loadcheck.fleet.folders import run_folders
from loadcheck.fleet.plan import NAME, FleetPlan, read_plan
from loadcheck.fleet.seen import Seen, examine
from loadcheck.fleet.tally import Tally
from loadcheck.fleet.verdict import CardResult, FleetVerdict, NodeResult, cards_of

ALONE = 64
"""Fewer folders than this are judged in this process: that is faster than starting others."""
BATCH, CHUNK = 1024, 16


def examined(root: Path, folders: Iterable[str], against: Against, jobs: int | None = None) -> Iterator[Seen]:
    """Judge each folder, in order; many folders by as many processes as there are cores."""
    rest = iter(folders)
    first = list(islice(rest, ALONE))
    jobs = len(os.sched_getaffinity(0)) if jobs is None else jobs
    if len(first) < ALONE or jobs < 2:
        for folder in (*first, *rest):
            yield examine(root, folder, against)
        return
    with ProcessPoolExecutor(jobs, get_context("spawn"), _begin, (root, against)) as pool:
        batch = first
        try:
            while batch:
                yield from pool.map(_examine, batch, chunksize=CHUNK)
                batch = list(islice(rest, BATCH))
        except BrokenProcessPool:
            what = "a worker process was killed, most likely for lack of memory"
            raise UnsupportedMachine(Problem("gather", what, "use fewer at once", "--jobs")) from None
        finally:
            pool.shutdown(cancel_futures=True)


_of_worker: dict[str, tuple[Path, Against]] = {}


def _begin(root: Path, against: Against) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    _of_worker["task"] = root, against


def _examine(folder: str) -> Seen:
    root, against = _of_worker["task"]
    return examine(root, folder, against)


@dataclass(slots=True)
class _Attempts:
    """The runs of one node, by how they ended."""

    passed: int = 0
    ended: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    last: Seen | None = None


@dataclass(slots=True)
class Gathering:
    """Collects the nodes of a fleet one by one, and the findings that only a comparison of nodes shows."""

    plan: FleetPlan | None = None
    nodes: dict[str, _Attempts] = field(default_factory=dict)
    findings: list[NodeFinding] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)
    loads_s: dict[str, float] = field(default_factory=dict)
    costs: dict[str, float] = field(default_factory=dict)
    prices: dict[str, float] = field(default_factory=dict)
    logs: dict[bytes, str] = field(default_factory=dict)
    moments: dict[tuple[datetime, datetime, int], str] = field(default_factory=dict)
    uuids: dict[str, str] = field(default_factory=dict)
    origins: dict[tuple[Kind, str], list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        nodes = () if self.plan is None else self.plan.nodes
        self.prices = {node.node: node.price_per_hour for node in nodes if node.price_per_hour is not None}

    def add(self, seen: Seen) -> None:
        attempts = self.nodes.setdefault(seen.node, _Attempts())
        (attempts.ended if seen.ended else attempts.lost).append(seen.folder)
        attempts.passed += seen.passed
        attempts.last = replace(seen, figures=(), findings=())
        self.findings += seen.findings
        card, took_s = seen.card or "", seen.duration_s or 0.0
        self.loads_s[card] = self.loads_s.get(card, 0.0) + took_s
        if seen.node in self.prices:
            self.costs[card] = self.costs.get(card, 0.0) + took_s / 3600 * self.prices[seen.node]
        self.tally.add(seen)
        self._compare(seen)

    def _compare(self, seen: Seen) -> None:
        """Compare with the other nodes: no two passing nodes have the same log, and no two have the same card."""
        if seen.status == "pass":
            self._compare_logs(seen)
        if seen.gpu_uuid is not None:
            other = self.uuids.setdefault(seen.gpu_uuid.lower(), seen.node)
            if other != seen.node:
                self._found(seen, Kind.SAME_CARD, f"its card is that of {other}: {seen.gpu_uuid}")
        if seen.code is not None:
            self.origins.setdefault((Kind.CODE, seen.code), []).append(seen.node)
        if self.plan is None:
            for kind, value in ((Kind.IMAGE, seen.image), (Kind.LOCK, seen.lock_sha256)):
                self.origins.setdefault((kind, value or "not stated"), []).append(seen.node)

    def _compare_logs(self, seen: Seen) -> None:
        """Only of nodes that pass, as the logs of early deaths may be equal."""
        if seen.log_digest is None:
            return
        other = self.logs.setdefault(seen.log_digest, seen.folder)
        if other != seen.folder:
            self._found(seen, Kind.COPIED, f"its load.log equals that of {other}, line by line")
        elif seen.moments and (twin := self.moments.setdefault(seen.moments, seen.folder)) != seen.folder:
            what = f"it began and ended in the same microseconds as {twin}, with the same free RAM to the byte"
            self._found(seen, Kind.COPIED, what)

    def _found(self, seen: Seen, kind: Kind, what: str) -> None:
        self.findings.append(NodeFinding(seen.node, kind, what, seen.folder))

    def verdict(self) -> FleetVerdict:
        for node, attempts in self.nodes.items():
            self.findings += _several(node, attempts)
        self.findings += self._mixed()
        for planned in () if self.plan is None else self.plan.nodes:
            if planned.node not in self.nodes:
                what = f"it has no run; {planned.card} was planned"
                self.findings.append(NodeFinding(planned.node, Kind.MISSING, what))
        nodes = tuple(self._results())
        cards: tuple[CardResult, ...] = cards_of(self.plan, nodes, self.loads_s, self.costs)
        return FleetVerdict(self.plan, nodes, tuple(self.findings), cards, self.tally)

    def _mixed(self) -> Iterator[NodeFinding]:
        """All nodes were loaded by the same code, and without a plan from one image and one lock."""
        for kind in (Kind.CODE, Kind.IMAGE, Kind.LOCK):
            values = {value: nodes for (origin, value), nodes in self.origins.items() if origin is kind}
            usual = max(values, key=lambda value: len(values[value]), default="")
            for value, nodes in values.items():
                for node in nodes if value != usual else ():
                    yield NodeFinding(node, kind, f"its {kind.value} is {value}, and that of most is {usual}")

    def _results(self) -> Iterator[NodeResult]:
        """The results in the order of the plan, then those of unplanned nodes."""
        found = {finding.node for finding in self.findings}
        planned = {} if self.plan is None else {node.node: node.card for node in self.plan.nodes}
        for node in dict.fromkeys((*planned, *self.nodes)):
            attempts = self.nodes.get(node)
            last = None if attempts is None else attempts.last
            if attempts is None or last is None:
                yield NodeResult(node, planned[node], "missing", 0)
                continue
            number = len(attempts.ended) + len(attempts.lost)
            status = "pass" if node not in found and attempts.passed == 1 else _status(attempts, last)
            yield NodeResult(node, last.card or planned.get(node), status, number, last.folder, last.duration_s)


def _status(attempts: _Attempts, last: Seen) -> str:
    if attempts.passed == 1 and attempts.lost and len(attempts.ended) == 1:
        return "retried"
    return "fail" if last.status == "pass" else last.status


def _several(node: str, attempts: _Attempts) -> Iterator[NodeFinding]:
    if len(attempts.ended) > 1:
        what = f"it has {len(attempts.ended)} runs that ended: {', '.join(attempts.ended)}"
        yield NodeFinding(node, Kind.DOUBLED, what, attempts.ended[-1])
    elif attempts.ended and attempts.lost:
        what = f"{', '.join(attempts.lost)} was lost, and {attempts.ended[0]} is another try"
        yield NodeFinding(node, Kind.RETRIED, what, attempts.ended[0])


def gather_folder(root: Path, plan_file: Path | None = None, jobs: int | None = None) -> FleetVerdict:
    """The verdict on all run folders below `root`, checked against `plan_file` or the fleet.json there; BadInput if that is invalid."""
    file = plan_file or plan_below(root)
    plan = None if file is None else read_plan(file)
    against = Against.of(plan, datetime.now(timezone.utc))
    gathering = Gathering(plan)
    for seen in examined(root, run_folders(root), against, jobs):
        gathering.add(seen)
    return gathering.verdict()


def plan_below(root: Path) -> Path | None:
    """The fleet.json in a folder of runs, or one level below, as in a tar of that folder; None if there is none."""
    found = [root / NAME] if os.path.lexists(root / NAME) else sorted(root.glob(f"*/{NAME}"))
    if len(found) > 1:
        what = f"holds several plans: {', '.join(str(path.relative_to(root)) for path in found)}"
        raise BadInput(Problem(str(root), what, "gather one fleet at a time, or name the plan with --plan"))
    if found and found[0].exists() and not found[0].is_file():
        raise BadInput(Problem(str(found[0]), "is not a file", "remove it, and give the plan with --plan"))
    return found[0] if found else None
