"""`loadcheck fleet run` by an engine's own command, and how all of it is taken back."""

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

Say = Callable[[str], None]


def launch(plan: FleetPlan, folder: Path, say: Say) -> bool:
    """Run the engine's commands in the plan's folder; whether the user let them come to their end, well or not.

    What was started is taken back where the user interrupts it, and where one of the commands fails: what it left may cost money.
    UnsupportedMachine where a command is not here.
    """
    engine = engine_of(plan)
    commands = engine.start(plan)
    _require(plan, commands)
    failed: list[list[str]] = []
    interrupted = False
    try:
        with signals_as_interrupts():
            failed += [command for command in commands if not _run(command, folder, say)]
    except KeyboardInterrupt:
        say("interrupted")
        interrupted = True
    for command in failed:
        say(f"failed: {shlex.join(command)}")
    if failed or interrupted:
        with ignore_signals():
            _take_back(engine.stop(plan), folder, say)
    return not interrupted


def _require(plan: FleetPlan, commands: list[list[str]]) -> None:
    missing = sorted({command[0] for command in commands if shutil.which(command[0]) is None})
    if missing:
        what = f"{', '.join(missing)} is not on this machine"
        raise UnsupportedMachine(Problem(plan.engine, what, "start what was planned where it is (docs/clouds.md)"))


def _run(command: list[str], folder: Path, say: Say) -> bool:
    """Its own output goes where ours does not: stdout is one document."""
    say(shlex.join(command))
    return subprocess.run(command, cwd=folder, check=False, stdout=2).returncode == 0


def _take_back(commands: list[list[str]], folder: Path, say: Say) -> None:
    """What could not be taken back is said: it may cost money."""
    left = [command for command in commands if not _run(command, folder, say)]
    for command in left:
        say(f"NOT TAKEN BACK, and it may still cost money: {shlex.join(command)}")
    if not left:
        say("nothing of it is left running")
