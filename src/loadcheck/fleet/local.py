"""`loadcheck fleet run` on this host: each node is a process on its own GPU; no process outlives the call."""

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
"""The exit codes of a load that ended by itself; with any other the node was lost."""

Gpu = tuple[str, str]
"""(UUID, name)."""


@dataclass(frozen=True, slots=True)
class Slot:
    """A node and the UUID of its GPU; None on the CPU."""

    node: PlannedNode
    gpu: str | None = None
    tries: int = 1


@dataclass(slots=True)
class _Running:
    slot: Slot
    process: subprocess.Popen[bytes]
    started_s: float


def slots(plan: FleetPlan) -> tuple[Slot, ...]:
    """Assign a GPU to each node; UnsupportedMachine if this host has too few of a card."""
    free: dict[str, list[str]] = {}
    for uuid, name in visible(read_gpus(), os.environ.get(VISIBLE)):
        free.setdefault(find_gpu(name) or name, []).append(uuid)
    problems = tuple(_too_few(plan, free))
    if problems:
        raise UnsupportedMachine(problems)
    return tuple(Slot(node, None if node.card == CPU else free[node.card].pop(0)) for node in plan.nodes)


def visible(gpus: Sequence[Gpu], variable: str | None) -> tuple[Gpu, ...]:
    """The GPUs in CUDA_VISIBLE_DEVICES, by number or UUID, up to the first invalid entry; a scheduler may have assigned only some."""
    if variable is None:
        return tuple(gpus)
    found: list[Gpu] = []
    for word in (word.strip() for word in variable.split(",")):
        named = [gpu for number, gpu in enumerate(gpus) if word and (word == str(number) or gpu[0].startswith(word))]
        if len(named) != 1 or named[0] in found:
            break
        found += named
    return tuple(found)


def _too_few(plan: FleetPlan, free: dict[str, list[str]]) -> Iterator[Problem]:
    for card in dict.fromkeys(node.card for node in plan.nodes if node.card != CPU):
        wanted, there = sum(node.card == card for node in plan.nodes), len(free.get(card, ()))
        if wanted > there:
            what = f"the plan has {wanted} nodes with {card}, but this host has {there}"
            yield Problem("fleet.json", what, "plan only as many: each node has a GPU of its own", "nodes")


def run_local(plan: FleetPlan, folder: Path, echo: Callable[[str], None]) -> bool:
    """Run every node, as many at once as the plan says; returns False if the user interrupted it.

    Args:
        folder: the plan's; a node's output goes to NODE.out there.
        echo: called with a line for each start and end.
    """
    waiting, running = deque(slots(plan)), list[_Running]()
    workers = plan.options.get("workers") or max(1, sum(slot.gpu is not None for slot in waiting))
    make_private(folder, exist_ok=True)
    with signals_as_interrupts():
        try:
            while waiting or running:
                while waiting and len(running) < workers:
                    running.append(_start(plan, folder, waiting.popleft(), echo))
                for ended in _ended(plan, running):
                    running.remove(ended)
                    waiting.extend(_again(plan, ended, echo))
                time.sleep(POLL_S)
        except KeyboardInterrupt:
            echo(f"interrupted: {len(running)} running nodes are stopped, {len(waiting)} are not started")
            return False
        finally:
            with ignore_signals():
                _end(running)
    return True


def _start(plan: FleetPlan, folder: Path, slot: Slot, echo: Callable[[str], None]) -> _Running:
    echo(f"{slot.node.node}: {slot.gpu or 'on the CPU'}" + (f", try {slot.tries}" if slot.tries > 1 else ""))
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
    """The command of a node's process; its environment holds the node's name."""
    return [sys.executable, "-m", "loadcheck", *node_command(plan, str(Path(plan.results).absolute()))]


def _ended(plan: FleetPlan, running: Sequence[_Running]) -> list[_Running]:
    """The nodes that have ended; a node that exceeds its time limit is killed, and counts as lost."""
    for node in running:
        if node.process.poll() is None and time.monotonic() - node.started_s > plan.minutes * 60:
            kill_session(node.process.pid)
            node.process.wait()
    return [node for node in running if node.process.poll() is not None]


def _again(plan: FleetPlan, ended: _Running, echo: Callable[[str], None]) -> Iterator[Slot]:
    """Another try for a node that was lost; gather reports it, and does not count it as a pass."""
    slot, code = ended.slot, ended.process.returncode
    kill_session(ended.process.pid)
    took = f"after {time.monotonic() - ended.started_s:.0f} s"
    if code in ANSWERS:
        echo(f"{slot.node.node}: exit code {code} {took}")
        return
    retry = slot.tries <= plan.retries
    echo(f"{slot.node.node}: lost {took} (exit code {code}){'; trying again' if retry else ''}")
    if retry:
        yield Slot(slot.node, slot.gpu, slot.tries + 1)


def _end(running: Sequence[_Running]) -> None:
    """Interrupt each node, as Ctrl-C does, and kill those that do not end in time."""
    for node in running:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(node.process.pid, signal.SIGINT)
    deadline_s = time.monotonic() + 2 * GRACE_S
    while any(node.process.poll() is None for node in running) and time.monotonic() < deadline_s:
        time.sleep(POLL_S)
    for node in running:
        kill_session(node.process.pid)
        node.process.wait()
