"""What each engine is handed: files made from a plan, and how they are started and taken back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from loadcheck.errors import BadInput, Problem
from loadcheck.fleet.plan import FleetPlan
from loadcheck.runs.private import make_private, write_whole

Files = dict[str, str]


@dataclass(frozen=True, slots=True)
class Engine:
    """An engine: `files` makes what it is handed, by name; `start` and `stop` are its own commands, in the plan's folder."""

    files: Callable[[FleetPlan], Files]
    start: Callable[[FleetPlan], list[list[str]]]
    stop: Callable[[FleetPlan], list[list[str]]]


def engine_of(plan: FleetPlan) -> Engine:
    """The plan's engine: the functions of its module, imported when it is asked for."""
    module = import_module(f"loadcheck.fleet.engines.{plan.engine}")
    return Engine(module.files, module.start, module.stop)


def write_files(plan: FleetPlan, folder: Path) -> tuple[str, ...]:
    """Write what the engine is handed; returns the names. OSError where they cannot be written."""
    made = engine_of(plan).files(plan)
    make_private(folder, exist_ok=True)
    for name, text in made.items():
        write_whole(folder / name, text)
    return tuple(made)


def node_command(plan: FleetPlan, results: str) -> list[str]:
    """What runs on every node, after `loadcheck`."""
    return ["fleet", "node", results, *plan.arguments]


def require_absolute(plan: FleetPlan) -> None:
    """BadInput where the results are in no folder that all nodes, and this machine, call the same."""
    if not plan.results.startswith("/"):
        what = f"{plan.results!r} is another folder on each node"
        raise BadInput(Problem("FLEET.toml", what, "name one that all nodes see, from / on", "results"))
