"""`loadcheck fleet run` with an engine's own commands, and the cleanup after a failure or an interrupt."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from loadcheck.errors import Problem, UnsupportedMachine
from loadcheck.fleet.engines import engine_of
from loadcheck.fleet.plan import FleetPlan
from loadcheck.runs.child import ignore_signals, signals_as_interrupts


def launch(plan: FleetPlan, folder: Path, echo: Callable[[str], None]) -> bool:
    """Run the engine's commands in the plan's folder; returns False if the user interrupted them.

    If the user interrupts it or a command fails, everything that was started is stopped, as it may cost money. UnsupportedMachine if a command is
    not installed.
    """
    engine = engine_of(plan)
    commands = engine.start(plan)
    _require(plan, commands)
    failed: list[list[str]] = []
    interrupted = False
    try:
        with signals_as_interrupts():
            failed += [command for command in commands if not _run(command, folder, echo)]
    except KeyboardInterrupt:
        echo("interrupted")
        interrupted = True
    for command in failed:
        echo(f"failed: {shlex.join(command)}")
    if failed or interrupted:
        with ignore_signals():
            _clean_up(engine.stop(plan), folder, echo)
    return not interrupted


def _require(plan: FleetPlan, commands: list[list[str]]) -> None:
    missing = sorted({command[0] for command in commands if shutil.which(command[0]) is None})
    if missing:
        what = f"{', '.join(missing)} is not on this machine"
        raise UnsupportedMachine(Problem(plan.engine, what, "run the plan where it is installed (docs/clouds.md)"))


def _run(command: list[str], folder: Path, echo: Callable[[str], None]) -> bool:
    """Run a command, with its stdout redirected to stderr, as our stdout is one JSON document."""
    echo(shlex.join(command))
    return subprocess.run(command, cwd=folder, check=False, stdout=2).returncode == 0


def _clean_up(commands: list[list[str]], folder: Path, echo: Callable[[str], None]) -> None:
    """Run the engine's stop commands, and warn if one fails, as what is left may cost money."""
    failed = [command for command in commands if not _run(command, folder, echo)]
    for command in failed:
        echo(f"NOT STOPPED, and it may still cost money: {shlex.join(command)}")
    if not failed:
        echo("nothing is left running")
