"""What is done to an export in a process of its own: python -m loadcheck.engines.exported write|prove|base|answer [PARENT_PID].

The request is one JSON object on stdin. What is found is JSON on stdout, an object a line; all that libraries print goes to stderr.

    write    the weights of the export into the folder `target`, from the adapters in `adapters`
    prove    the export in `target` opened anew, and compared with what the trained model said
    base     the directory of the base's weights, fetched or made where it is not there yet
    answer   a line {"text": piece} for each piece of the answer to `prompt`, then what it came to
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
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

Say = Callable[[dict[str, Any]], None]


def main(arguments: list[str]) -> int:
    """Do one step; 2 or 3 for what is wrong with the input or the machine, and its problems as the last line."""
    say = _own_stdout()
    if len(arguments) > 1:
        die_with_parent(int(arguments[1]))
    pin_gpu()
    try:
        STEPS[arguments[0]](json.load(sys.stdin), say)
    except LoadcheckError as error:
        keys = ("where", "what", "remedy", "key")
        say({"problems": [{key: getattr(each, key) for key in keys} for each in error.problems]})
        return error.exit_code
    return 0


def _own_stdout() -> Say:
    """A writer to stdout that nobody else has: what is printed from here on goes to stderr."""
    out = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)

    def say(data: dict[str, Any]) -> None:
        print(json.dumps(data), file=out, flush=True)

    return say


def _source(request: dict[str, Any], directory: str, merged: bool) -> Source:
    """BadInput where the base is not the one that the adapters were trained on."""
    plan = plan_from_json(request["plan"])
    if merged:
        return Source(plan, Path(directory), None, request["dtype"])
    base = weights.prepare(plan)
    wanted = request.get("base_files")
    if wanted is not None and reloaded.base_hashes(base) != wanted:
        what = "is not the base that these adapters were trained on"
        raise BadInput(Problem(str(base), what, "bring the base that proof.json names by its hashes"))
    return Source(plan, Path(directory), base, request["dtype"])


def write(request: dict[str, Any], say: Say) -> None:
    """The adapters' weights as they are, byte for byte, or the merged model; says the hashes of the base."""
    reloaded.prepare_process()
    source = _source(request, request["adapters"], merged=False)
    target = Path(request["target"])
    if request["merged"]:
        write_merged(source, target)
    else:
        shutil.copy(source.directory / "adapter_model.safetensors", target)
    assert source.base is not None
    say({"base_files": reloaded.base_hashes(source.base)})


def prove(request: dict[str, Any], say: Say) -> None:
    reloaded.prepare_process()
    say(reloaded.compare(_source(request, request["target"], request["merged"])))


def base(request: dict[str, Any], say: Say) -> None:
    say({"directory": str(_source(request, "", merged=False).base)})


def answer(request: dict[str, Any], say: Say) -> None:
    reloaded.prepare_process()
    source = _source(request, request["target"], request["merged"])
    say(reloaded.answer(source, request["prompt"], request["max_new_tokens"], lambda text: say({"text": text})))


STEPS = {"write": write, "prove": prove, "base": base, "answer": answer}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
