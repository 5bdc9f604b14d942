"""`loadcheck fleet node`: what every engine starts on a node. One load in a folder of its own, sealed when it has ended."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

from loadcheck.device import PIN, read_gpus
from loadcheck.errors import BadInput, LoadcheckError, Problem
from loadcheck.fleet.seal import REFUSED, seal
from loadcheck.runs.folder import write_json
from loadcheck.runs.origin import FLEET_VARIABLE, NODE_VARIABLE

VISIBLE = "CUDA_VISIBLE_DEVICES"


def run_node(results: Path, load: Callable[[Path], int], environ: MutableMapping[str, str]) -> int:
    """One load of this node, by `load`, in RESULTS/NODE/TIME: a further try lies beside the first. Returns its exit code."""
    name = environ.get(NODE_VARIABLE)
    if not name:
        what = "is not set, so nobody could say whose this load is"
        raise BadInput(Problem("environment", what, "set it to the node's name in fleet.json", NODE_VARIABLE))
    pin_visible(environ)
    folder = results / name / f"{datetime.now(timezone.utc):%Y%m%dT%H%M%S.%fZ}"
    with _sealed(folder):
        return load(folder)


@contextmanager
def _sealed(folder: Path) -> Iterator[None]:
    """Seal what a load left, however it ended; of one that was not begun, say why."""
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
            why = [str(problem) for problem in problems] or ["see what it printed, in the engine's own log"]
            write_json(folder / REFUSED, {"why": why})


def pin_visible(environ: MutableMapping[str, str]) -> None:
    """Take the GPU that a scheduler chose by CUDA_VISIBLE_DEVICES for this load's: the pinned stack reads no other entry than 0."""
    chosen = environ.get(VISIBLE, "").split(",")[0].strip()
    if environ.get(PIN):  # whoever chose it has taken notice of the variable, and nobody else may
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


def node_environment(name: str, fleet: str, gpu: str | None = None) -> dict[str, str]:
    """This environment, for a node that is started from here; of which image it is, only who started us can say (LOADCHECK_IMAGE)."""
    return {**os.environ, NODE_VARIABLE: name, FLEET_VARIABLE: fleet} | ({PIN: gpu} if gpu else {})
