"""The engines that run a fleet: each makes its files from a plan, and has commands to start and stop it."""

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
    """An engine: `files` makes its files by name; `start` and `stop` return its own commands, to be run in the plan's folder."""

    files: Callable[[FleetPlan], Files]
    start: Callable[[FleetPlan], list[list[str]]]
    stop: Callable[[FleetPlan], list[list[str]]]


def engine_of(plan: FleetPlan) -> Engine:
    """The plan's engine, whose module is imported only now."""
    module = import_module(f"loadcheck.fleet.engines.{plan.engine}")
    return Engine(module.files, module.start, module.stop)


def write_files(plan: FleetPlan, folder: Path) -> tuple[str, ...]:
    """Write the engine's files; returns their names. OSError if they cannot be written."""
    made = engine_of(plan).files(plan)
    make_private(folder, exist_ok=True)
    for name, text in made.items():
        write_whole(folder / name, text)
    return tuple(made)


def node_command(plan: FleetPlan, results: str) -> list[str]:
    """The arguments of `loadcheck` on every node."""
    return ["fleet", "node", results, *plan.arguments]


def require_absolute(plan: FleetPlan) -> None:
    """BadInput if the results' path is not absolute, as it must be the same folder on all nodes and this machine."""
    if not plan.results.startswith("/"):
        what = f"{plan.results!r} is another folder on each node"
        raise BadInput(
            Problem("FLEET.toml", what, "give the absolute path of a folder that all nodes share", "results")
        )
