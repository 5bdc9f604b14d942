"""`loadcheck fleet node`: the command that every engine starts on a node. It runs one load in its own folder, and seals that at the end."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

from loadcheck.device import PIN, read_gpus
from loadcheck.errors import BadInput, LoadcheckError, Problem
from loadcheck.fleet.seal import REFUSED, seal
from loadcheck.runs.json_file import write_json
from loadcheck.runs.origin import FLEET_VARIABLE, NODE_VARIABLE

VISIBLE = "CUDA_VISIBLE_DEVICES"


def run_node(results: Path, load: Callable[[Path], int], environ: MutableMapping[str, str]) -> int:
    """Run one load of this node with `load` in RESULTS/NODE/TIME, so that each try has its own folder. Returns its exit code."""
    name = environ.get(NODE_VARIABLE)
    if not name:
        what = "is not set, so it is unknown which node this is"
        raise BadInput(Problem("environment", what, "set it to the node's name in fleet.json", NODE_VARIABLE))
    pin_visible(environ)
    folder = results / name / f"{datetime.now(timezone.utc):%Y%m%dT%H%M%S.%fZ}"
    with _sealed(folder):
        return load(folder)


@contextmanager
def _sealed(folder: Path) -> Iterator[None]:
    """Seal the folder of a load, however it ended; if the load was refused, write the reason instead."""
    problems: tuple[Problem, ...] = ()
    try:
        yield
    except LoadcheckError as error:
        problems = error.problems
        raise
    finally:
        if (folder / "run.json").exists():
            seal(folder)
        else:
            why = [str(problem) for problem in problems] or ["see its output in the engine's own log"]
            write_json(folder / REFUSED, {"why": why})


def pin_visible(environ: MutableMapping[str, str]) -> None:
    """Pin the GPU that a scheduler chose with CUDA_VISIBLE_DEVICES, as the pinned stack supports no entry but 0 there."""
    chosen = environ.get(VISIBLE, "").split(",")[0].strip()
    if environ.get(PIN):  # it was chosen with regard to the variable, which must not be applied again
        environ.pop(VISIBLE, None)
        return
    if chosen in ("", "-1", "NoDevFiles"):
        return
    if chosen == "0":  # of several
        environ[VISIBLE] = chosen
        return
    gpus = read_gpus()
    if chosen.isdecimal() and int(chosen) < len(gpus):
        chosen = gpus[int(chosen)][0]
    if chosen.startswith(("GPU-", "MIG-")):
        environ[PIN] = chosen
        del environ[VISIBLE]


def node_environment(name: str, fleet: str, gpu: str | None) -> dict[str, str]:
    """This environment, for a node started from here. LOADCHECK_IMAGE is inherited, as only whoever started this process knows the image."""
    return {**os.environ, NODE_VARIABLE: name, FLEET_VARIABLE: fleet} | ({PIN: gpu} if gpu else {})
