"""The child processes of a run: python -m loadcheck.engines.child prepare|load|rows|train RUN_DIR [PARENT_PID],
or ahead ENGINE [PARENT_PID], which imports at once and reads from stdin what to load (runs/ahead.py).

`prepare` makes or downloads the weights, `load` runs the engine on them; in a training, `rows` counts the tokens and `train` trains. Each step
is a process of its own, so that making the weights leaves no trace in the figures of the load. Their output is the raw log.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import stat
import sys
import time
from importlib import import_module
from pathlib import Path

from loadcheck import weights
from loadcheck.device import pin_gpu
from loadcheck.disk import walked
from loadcheck.engines.ahead import Orders
from loadcheck.errors import BadInput, LoadcheckError, Problem
from loadcheck.logs.events import WeightsReady
from loadcheck.plan import LoadPlan, plan_from_json
from loadcheck.runs.ahead import AHEAD
from loadcheck.runs.child import kill_session
from loadcheck.runs.private import open_private
from loadcheck.stacks import engine_of
from loadcheck.stacks.recorder import Recorder
from loadcheck.weights.cache import weights_dir

PLAN = "plan.json"
DIRECTORY = "weights.json"
"""Holds the path of the weights, written by `prepare` for `load`."""

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(arguments: list[str]) -> int:
    """Run one step and return the exit code; any error but a LoadcheckError keeps its traceback."""
    step, subject = arguments[:2]
    if len(arguments) > 2:
        die_with_parent(int(arguments[2]))
    run_dir = begin_ahead(subject) if step == AHEAD else Path(subject)
    if run_dir is None:
        return 0
    pin_gpu()
    return _run("load" if step == AHEAD else step, run_dir)


def _run(step: str, run_dir: Path) -> int:
    try:
        STEPS[step](planned(run_dir), run_dir, Recorder())
    except LoadcheckError as error:
        for problem in error.problems:
            print(f"Error: {problem}", file=sys.stderr, flush=True)
        return error.exit_code
    return 0


def planned(run_dir: Path) -> LoadPlan:
    """The plan of a run folder."""
    return plan_from_json(json.loads((run_dir / PLAN).read_text(encoding="utf-8")))


def begin_ahead(engine: str) -> Path | None:
    """Import what this engine needs while the parent inspects the machine; returns the folder of the load, None if there is none."""
    module = import_module(engine)
    orders = Orders(sys.stdin.fileno(), lambda run_dir: module.weights_ready(planned(run_dir), prepared(run_dir)))
    orders.start()
    module.import_ahead(orders.device_allowed)
    orders.join()
    return orders.run_dir


def prepare(plan: LoadPlan, run_dir: Path, recorder: Recorder) -> None:
    """Make or download the weights into a local directory, and write its path into the run folder."""
    start_s = time.monotonic()
    before = _folders(weights_dir())
    directory = weights.prepare(plan)
    files = [path.stat() for path in directory.iterdir() if path.is_file()]
    with open_private(run_dir / DIRECTORY, "w", encoding="utf-8") as file:
        file.write(json.dumps({"directory": str(directory)}) + "\n")
    recorder.record(
        WeightsReady(
            source=plan.profile.weights,
            directory=directory.name,
            disk_bytes=sum(file.st_size for file in files),
            prepare_s=round(time.monotonic() - start_s, 3),
            cached=directory.stat().st_ino in before or weights_dir() not in directory.parents,
        )
    )


def _folders(cache: Path) -> set[int]:
    """The inodes of the cache's folders: a folder that was made anew has another, whatever the clock says."""
    return {found.st_ino for found in walked(cache) if stat.S_ISDIR(found.st_mode)}


def load(plan: LoadPlan, run_dir: Path, recorder: Recorder) -> None:
    """Run the engine of the plan's stack on the prepared weights."""
    import_module(engine_of(plan.profile)).run(plan, prepared(run_dir), recorder)


def prepared(run_dir: Path) -> Path:
    """The directory of the weights, as `prepare` wrote it."""
    try:
        return Path(json.loads((run_dir / DIRECTORY).read_text(encoding="utf-8"))["directory"])
    except FileNotFoundError:
        raise BadInput(Problem(str(run_dir / DIRECTORY), "no such file", "run the step `prepare` first")) from None


def rows(plan: LoadPlan, run_dir: Path, recorder: Recorder) -> None:
    """Count the tokens of a training's rows; write the counts, and the faults of the data, into the run folder."""
    from loadcheck.engines.training import count_rows

    count_rows(plan, run_dir, prepared(run_dir), recorder)


def train(plan: LoadPlan, run_dir: Path, recorder: Recorder) -> None:
    """Train as train.json specifies, on the prepared weights."""
    from loadcheck.engines.training import train as run_training

    run_training(plan, run_dir, prepared(run_dir), recorder)


STEPS = {"prepare": prepare, "load": load, "rows": rows, "train": train}


def die_with_parent(parent: int) -> None:
    """Let the kernel kill this process when the thread that started it ends: an orphaned load must not hold a GPU.

    A guard process, forked here, then kills the child processes that this one leaves behind, as nothing else would.
    """
    if sys.platform != "linux":
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, (_PARENT_DIED,))
    own = os.getpid()
    if os.fork() == 0:
        _guard(own)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (_PARENT_DIED,))
    _signal_on_death_of(parent, signal.SIGKILL)


_PARENT_DIED = signal.SIGUSR2


def _guard(engine: int) -> None:
    """Wait until the engine's process is gone, for whatever reason, and kill the rest of its session."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # ignore signals sent to the process group
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):  # or the parent would wait for the end of our output
        os.dup2(nothing, descriptor)
    _signal_on_death_of(engine, _PARENT_DIED)
    signal.sigwait((_PARENT_DIED,))
    kill_session(os.getsid(0))
    os._exit(0)


def _signal_on_death_of(parent: int, number: signal.Signals) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:  # it died before the call
        os.kill(os.getpid(), number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
