"""The steps of an export that need the model, each in its own process: python -m loadcheck.engines.exported write|prove|base|answer [PARENT_PID].

The request is one JSON object on stdin. The results are JSON on stdout, one object per line; everything that libraries print goes to stderr.

    write    write the weights of the export into the folder `target`, from the adapters in `adapters`
    prove    load the export in `target` again, and compare it with the trained model's logits
    base     the directory of the base's weights, downloaded or made if necessary
    answer   a line {"text": piece} for each piece of the answer to `prompt`, then a summary
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from loadcheck import weights
from loadcheck.device import pin_gpu
from loadcheck.engines.child import die_with_parent
from loadcheck.errors import BadInput, LoadcheckError, Problem
from loadcheck.plan import plan_from_json
from loadcheck.stacks import reloaded
from loadcheck.stacks.merge import write_merged
from loadcheck.stacks.reloaded import Source

Send = Callable[[dict[str, Any]], None]


def main(arguments: list[str]) -> int:
    """Do one step; returns 2 or 3 for bad input or an unsupported machine, with the problems as the last line."""
    send = _own_stdout()
    if len(arguments) > 1:
        die_with_parent(int(arguments[1]))
    pin_gpu()
    try:
        STEPS[arguments[0]](json.load(sys.stdin), send)
    except LoadcheckError as error:
        send({"problems": [asdict(problem) for problem in error.problems]})
        return error.exit_code
    return 0


def _own_stdout() -> Send:
    """Redirect stdout to stderr, and return a function that still writes to the real stdout."""
    out = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)

    def send(data: dict[str, Any]) -> None:
        print(json.dumps(data), file=out, flush=True)

    return send


def _source(request: dict[str, Any], directory: str, merged: bool) -> Source:
    """What to load; BadInput if the base is not the one that the adapters were trained on."""
    plan = plan_from_json(request["plan"])
    if merged:
        return Source(plan, Path(directory), None, request["dtype"])
    base = weights.prepare(plan)
    wanted = request.get("base_files")
    if wanted is not None and reloaded.base_hashes(base) != wanted:
        what = "is not the base that these adapters were trained on"
        raise BadInput(Problem(str(base), what, "use the base whose hashes are in proof.json"))
    return Source(plan, Path(directory), base, request["dtype"])


def write(request: dict[str, Any], send: Send) -> None:
    """Copy the adapters' weights byte for byte, or write the merged model; sends the hashes of the base."""
    reloaded.prepare_process()
    source = _source(request, request["adapters"], merged=False)
    target = Path(request["target"])
    if request["merged"]:
        write_merged(source, target)
    else:
        shutil.copy(source.directory / "adapter_model.safetensors", target)
    assert source.base is not None
    send({"base_files": reloaded.base_hashes(source.base)})


def prove(request: dict[str, Any], send: Send) -> None:
    reloaded.prepare_process()
    send(reloaded.compare(_source(request, request["target"], request["merged"])))


def base(request: dict[str, Any], send: Send) -> None:
    send({"directory": str(_source(request, "", merged=False).base)})


def answer(request: dict[str, Any], send: Send) -> None:
    reloaded.prepare_process()
    source = _source(request, request["target"], request["merged"])
    send(reloaded.answer(source, request["prompt"], request["max_new_tokens"], lambda text: send({"text": text})))


STEPS = {"write": write, "prove": prove, "base": base, "answer": answer}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
