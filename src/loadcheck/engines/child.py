"""What runs in the child processes of a load: python -m loadcheck.engines.child prepare|load RUN_DIR.

`prepare` makes or fetches the weights, `load` runs the engine on them. Two processes, so that making the weights leaves no trace
in the figures of the load. What they print is the raw log.
"""

from __future__ import annotations

import ctypes
import json
import signal
import sys
import time
from pathlib import Path

from loadcheck import weights
from loadcheck.engines.protocol import Recorder
from loadcheck.errors import BadInput, LoadcheckError, Problem
from loadcheck.plan import LoadPlan, plan_from_json

PLAN = "plan.json"
DIRECTORY = "weights.json"
"""Where `prepare` leaves the path of the weights for `load`."""

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(arguments: list[str]) -> int:
    """Run one step and return the exit code; an error that is no LoadcheckError keeps its traceback."""
    step, run_dir = arguments[0], Path(arguments[1])
    die_with_parent()
    try:
        plan = plan_from_json(json.loads((run_dir / PLAN).read_text(encoding="utf-8")))
        if step == "prepare":
            prepare(plan, run_dir, Recorder())
        else:
            load(plan, run_dir, Recorder())
    except LoadcheckError as error:
        for problem in error.problems:
            print(f"Error: {problem}", file=sys.stderr, flush=True)
        return error.exit_code
    return 0


def prepare(plan: LoadPlan, run_dir: Path, recorder: Recorder) -> None:
    """Have the weights in a local directory, and leave its path in the run folder."""
    started_s = time.time()
    directory = weights.prepare(plan)
    files = [path.stat() for path in directory.iterdir() if path.is_file()]
    (run_dir / DIRECTORY).write_text(json.dumps({"directory": str(directory)}) + "\n", encoding="utf-8")
    recorder.event(
        "weights_ready",
        source=plan.profile.weights,
        directory=directory.name,
        disk_bytes=sum(file.st_size for file in files),
        prepare_s=round(time.time() - started_s, 3),
        cached=all(file.st_mtime < started_s for file in files),
    )


def load(plan: LoadPlan, run_dir: Path, recorder: Recorder) -> None:
    """Run the plan's engine on the weights that `prepare` left."""
    try:
        directory = Path(json.loads((run_dir / DIRECTORY).read_text(encoding="utf-8"))["directory"])
    except FileNotFoundError:
        raise BadInput(Problem(str(run_dir / DIRECTORY), "no such file", "run the step `prepare` first")) from None
    if plan.profile.engine == "cpu":
        from loadcheck.engines import cpu

        cpu.run(plan, directory, recorder)
    else:
        from loadcheck.engines import gpu

        gpu.run(plan, directory, recorder)


def die_with_parent() -> None:
    """Have the system kill this process when the thread that started it ends: a load must not go on, and hold a GPU, alone."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
