"""`loadcheck fleet run` on this host: every node in a process of its own, on a GPU of its own; nothing of it outlives the call."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from loadcheck.device import read_gpus
from loadcheck.errors import Problem, UnsupportedMachine
from loadcheck.fleet.engines import node_command
from loadcheck.fleet.node import VISIBLE, node_environment
from loadcheck.fleet.plan import CPU, FleetPlan, PlannedNode
from loadcheck.runs.child import GRACE_S, ignore_signals, kill_session, signals_as_interrupts
from loadcheck.runs.private import make_private, open_private
from loadcheck.specs.gpu import find_gpu

POLL_S = 0.1
ANSWERS = (0, 1, 2, 3)
"""The exit codes that a load gives itself; with any other the node was lost."""

Gpu = tuple[str, str]
"""UUID and name."""
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Slot:
    """A node with the GPU that it is pinned to, by UUID; None on the CPU."""

    node: PlannedNode
    gpu: str | None = None
    tries: int = 1


@dataclass(slots=True)
class _Running:
    slot: Slot
    process: subprocess.Popen[bytes]
    started_s: float


def slots(plan: FleetPlan) -> tuple[Slot, ...]:
    """A GPU for each node; UnsupportedMachine where this host has too few of a card."""
    free: dict[str, list[str]] = {}
    for uuid, name in visible(read_gpus(), os.environ.get(VISIBLE)):
        free.setdefault(find_gpu(name) or name, []).append(uuid)
    problems = tuple(_too_few(plan, free))
    if problems:
        raise UnsupportedMachine(problems)
    return tuple(Slot(node, None if node.card == CPU else free[node.card].pop(0)) for node in plan.nodes)


def visible(gpus: Sequence[Gpu], said: str | None) -> tuple[Gpu, ...]:
    """Those that CUDA_VISIBLE_DEVICES leaves, as a scheduler may have given us some alone: by number or UUID, up to the first that is none."""
    if said is None:
        return tuple(gpus)
    found: list[Gpu] = []
    for word in (word.strip() for word in said.split(",")):
        named = [each for number, each in enumerate(gpus) if word and (word == str(number) or each[0].startswith(word))]
        if len(named) != 1 or named[0] in found:
            break
        found += named
    return tuple(found)


def _too_few(plan: FleetPlan, free: dict[str, list[str]]) -> Iterator[Problem]:
    for card in dict.fromkeys(node.card for node in plan.nodes if node.card != CPU):
        wanted, there = sum(node.card == card for node in plan.nodes), len(free.get(card, ()))
        if wanted > there:
            what = f"the plan has {wanted} nodes of {card}, and this host has {there}"
            yield Problem("fleet.json", what, "plan as many as there are: each node has a GPU of its own", "nodes")


def run_local(plan: FleetPlan, folder: Path, say: Say) -> bool:
    """Run every node, as many at once as the plan says; whether all were run, and none was cut short by the user.

    Args:
        folder: of the plan; what a node prints goes to NODE.out there.
        say: takes a line for each start and end.
    """
    waiting, running = deque(slots(plan)), list[_Running]()
    workers = plan.options.get("workers") or max(1, sum(slot.gpu is not None for slot in waiting))
    make_private(folder, exist_ok=True)
    with signals_as_interrupts():
        try:
            while waiting or running:
                while waiting and len(running) < workers:
                    running.append(_start(plan, folder, waiting.popleft(), say))
                for ended in _ended(plan, running):
                    running.remove(ended)
                    waiting.extend(_again(plan, ended, say))
                time.sleep(POLL_S)
        except KeyboardInterrupt:
            say(f"interrupted: {len(running)} running nodes are ended, {len(waiting)} are not begun")
            return False
        finally:
            with ignore_signals():
                _end(running)
    return True


def _start(plan: FleetPlan, folder: Path, slot: Slot, say: Say) -> _Running:
    say(f"{slot.node.node}: {slot.gpu or 'on the CPU'}" + (f", try {slot.tries}" if slot.tries > 1 else ""))
    with open_private(folder / f"{slot.node.node}.out", "ab") as out:
        process = subprocess.Popen(
            command_of(plan),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=node_environment(slot.node.node, plan.identity, slot.gpu),
            start_new_session=True,
        )
    return _Running(slot, process, time.monotonic())


def command_of(plan: FleetPlan) -> list[str]:
    """A node's process; who it is stands in its environment."""
    return [sys.executable, "-m", "loadcheck", *node_command(plan, str(Path(plan.results).absolute()))]


def _ended(plan: FleetPlan, running: Sequence[_Running]) -> list[_Running]:
    """Those that have ended; one that takes longer than it may is killed, and so was lost."""
    for each in running:
        if each.process.poll() is None and time.monotonic() - each.started_s > plan.minutes * 60:
            kill_session(each.process.pid)
            each.process.wait()
    return [each for each in running if each.process.poll() is not None]


def _again(plan: FleetPlan, ended: _Running, say: Say) -> Iterator[Slot]:
    """A further try for a node that was lost: gather names it, and counts it as no pass."""
    slot, code = ended.slot, ended.process.returncode
    kill_session(ended.process.pid)
    took = f"after {time.monotonic() - ended.started_s:.0f} s"
    if code in ANSWERS:
        say(f"{slot.node.node}: exit code {code} {took}")
        return
    once_more = slot.tries <= plan.retries
    say(f"{slot.node.node}: lost {took} (exit code {code}){'; once more' if once_more else ''}")
    if once_more:
        yield Slot(slot.node, slot.gpu, slot.tries + 1)


def _end(running: Sequence[_Running]) -> None:
    """Ask each node to end, as Ctrl-C asks a load, and kill what has not ended then."""
    for each in running:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(each.process.pid, signal.SIGINT)
    deadline_s = time.monotonic() + 2 * GRACE_S
    while any(each.process.poll() is None for each in running) and time.monotonic() < deadline_s:
        time.sleep(POLL_S)
    for each in running:
        kill_session(each.process.pid)
        each.process.wait()
