"""Runs a load, or its imports, under a Python audit hook (PEP 578), and lists what no entry of tests/traced.toml explains.

Runs in an environment with the stack, so it imports only the standard library: `python -B tests/traced.py OUT.json PLAN`. PLAN is
`run FOLDER STEP...` (the steps of an engine's process, all in this one) or `imports` (everything that the GPU engine imports, on a machine
without a GPU, with faked answers of torch about the card). The hook sees Python's own events; files that C++ opens are not seen.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = ("chmod", "chown", "link", "mkdir", "remove", "rename", "rmdir", "setxattr", "symlink", "truncate", "utime")
NETWORK = ("bind", "connect", "getaddrinfo", "gethostbyaddr", "gethostbyname", "getnameinfo", "sendmsg", "sendto")
STARTS = ("exec", "fork", "forkpty", "posix_spawn", "spawn", "system")
KINDS = {
    **{f"os.{name}": "write" for name in CHANGES},
    **{f"socket.{name}": "network" for name in NETWORK},
    **{f"os.{name}": "process" for name in STARTS},
    "subprocess.Popen": "process",
    "pickle.find_class": "pickle",
}
PACKAGE = re.compile(r".*/(?:site-packages|src)/(.+)")
OUR_WRAPPERS = ("check_output",)
"""Our functions between unsloth and what it calls (stacks/unsloth_vllm/environment.py: query_own_gpu_only)."""
IGNORED_PATHS = ("/dev/null", "/dev/tty")
IMPORTED = (
    "vllm.entrypoints.llm", "vllm.lora.worker_manager", "vllm.model_executor.models.llama", "vllm.model_executor.model_loader.loader",
    "vllm.model_executor.layers.quantization.bitsandbytes", "vllm.executor.uniproc_executor", "transformers.models.llama.modeling_llama",
    "peft.tuners.lora.bnb", "trl.trainer.sft_trainer", "xformers.ops.fmha", "torch._inductor.compile_fx",
)  # fmt: skip
"""What a load imports after unsloth, as in tests/image/inside."""


@dataclass(frozen=True)
class TracedEvent:
    """One event: its kind (write, network, process, pickle, code), the package file that caused it, and its target.

    `stage` is the last event that the engine recorded before it.
    """

    kind: str
    by: str
    what: str
    stage: str


class AuditHook:
    """The hook. It records code from files that are neither installed nor ours; the file of code compiled from text is unknown."""

    def __init__(self) -> None:
        self.seen: list[TracedEvent] = []
        self.stage = ""
        own = (sys.prefix, sys.base_prefix, str(Path(__file__).parents[1]))
        self._installed = tuple(dict.fromkeys((*own, *map(os.path.realpath, own))))

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if isinstance(path, str | bytes) and isinstance(flags, int) and flags & WRITES:
                path = os.path.abspath(os.fsdecode(path))  # noqa: PTH100
                if path not in IGNORED_PATHS:
                    self._note("write", path)
        elif event == "exec":
            file = getattr(arguments[0], "co_filename", "")
            if file.startswith("/") and not file.startswith(self._installed):
                self._note("code", file)
        elif kind := KINDS.get(event):
            self._note(kind, TARGETS_OF[kind](event, arguments))

    def _note(self, kind: str, what: str) -> None:
        self.seen.append(TracedEvent(kind, caller(), what, self.stage))


def _changed_path(event: str, arguments: tuple[Any, ...]) -> str:
    """The changed path: of two names the new one. A relative path is resolved by the folder's descriptor, which is the last argument if any."""
    path = arguments[1 if event in ("os.rename", "os.link", "os.symlink") else 0]
    if isinstance(path, int):
        return str(Path(f"/proc/self/fd/{path}").readlink())
    folder = arguments[-1] if event not in ("os.truncate", "os.setxattr") else -1
    below = str(Path(f"/proc/self/fd/{folder}").resolve()) + "/" if folder >= 0 else ""
    name = os.fsdecode(path)
    return os.path.abspath(name if name.startswith("/") else below + name)  # noqa: PTH100  # no links are followed


def _network_target(event: str, arguments: tuple[Any, ...]) -> str:
    address = arguments[1] if event.startswith(("socket.bind", "socket.connect", "socket.send")) else arguments[0]
    return f"{event.removeprefix('socket.')} {address}"


def _command(event: str, arguments: tuple[Any, ...]) -> str:
    words = arguments[1] if event == "subprocess.Popen" else arguments[0] if arguments else event
    return " ".join(map(os.fsdecode, words)) if isinstance(words, list | tuple) else os.fsdecode(words)


TARGETS_OF: dict[str, Callable[[str, tuple[Any, ...]], str]] = {
    "write": _changed_path,
    "network": _network_target,
    "process": _command,
    "pickle": lambda _, arguments: ".".join(arguments),
}


def caller() -> str:
    """The innermost package file on the stack, below site-packages or src; "" if there is none."""
    frame = sys._getframe(2)
    while frame is not None:
        found = PACKAGE.search(frame.f_code.co_filename)
        if found and frame.f_code.co_name not in OUR_WRAPPERS:
            return found[1]
        frame = frame.f_back
    return ""


# ------------------------------------------------------------------------------------------------------------------- what is run


def run_steps(watch: AuditHook, folder: str, *steps: str) -> int:
    from loadcheck.engines.child import main as child
    from loadcheck.stacks.recorder import Recorder

    follow(watch, Recorder)
    return max(child([step, folder]) for step in steps)


def run_imports(watch: AuditHook) -> int:
    """The imports of unsloth's engine, with torch's answers about a card faked (scripts/trace_training.py)."""
    from loadcheck.stacks.recorder import Recorder
    from loadcheck.stacks.unsloth_vllm import engine, environment

    sys.path.append(str(Path(__file__).resolve().parents[1] / "scripts"))
    environment.set_environment()
    environment.query_own_gpu_once()
    shell = os.system
    from trace_training import pretend_gpu

    pretend_gpu()
    os.system = shell
    follow(watch, Recorder)
    engine.import_stack(Recorder())
    from unsloth import FastLanguageModel  # noqa: F401
    from unsloth_zoo.vllm_utils import patch_vllm

    patch_vllm()
    for module in IMPORTED:
        __import__(module)
    return 0


def follow(watch: AuditHook, recorder: Any) -> None:
    """Keep the name of the engine's newest event."""
    record = recorder.record

    def recorded(self: Any, event: Any) -> None:
        record(self, event)
        watch.stage = type(event).__name__

    recorder.record = recorded


def main(arguments: list[str]) -> None:
    import pickle
    from collections import OrderedDict

    watch = AuditHook()
    sys.addaudithook(watch)
    run: Callable[..., int] = run_steps if arguments[1] == "run" else run_imports
    code = run(watch, *arguments[2:])
    seen = list(watch.seen)
    pickle.loads(pickle.dumps(OrderedDict()))  # check that the hook works
    control = [each.kind for each in watch.seen[len(seen) :]]
    result = {"code": code, "seen": [vars(each) for each in seen], "control": control, "modules": sorted(sys.modules)}
    Path(arguments[0]).write_text(json.dumps(result))
    sys.stdout.flush()
    os._exit(0)


# ---------------------------------------------------------------------------------------------------------------- what is allowed


@dataclass(frozen=True)
class Allowed:
    """One entry of tests/traced.toml; `by` and `what` are fnmatch patterns, `what` after `shortened`.

    `when` is "load" (after the imports) or "imports" (at any time, as some imports come late).
    """

    kind: str
    by: str
    what: str
    why: str
    when: str = "imports"

    def covers(self, seen: TracedEvent, places: dict[str, str]) -> bool:
        named = self.kind == seen.kind and fnmatchcase(seen.by, self.by)
        then = self.when == "imports" or not is_import(seen)
        return named and then and fnmatchcase(shortened(seen.what, places), self.what)


def is_import(seen: TracedEvent) -> bool:
    """Whether it happened before the engine recorded that everything is imported."""
    return seen.stage == ""


def shortened(what: str, places: dict[str, str]) -> str:
    """Replace this run's folders by their names, such as {HOME}/x; the first match wins."""
    for name, path in places.items():
        what = what.replace(path, "{" + name + "}")
    return what


def unexplained(seen: list[TracedEvent], allowed: tuple[Allowed, ...], places: dict[str, str]) -> Iterator[str]:
    """Each event that no entry covers, once, as a readable line."""
    for each in dict.fromkeys(seen):
        if not any(entry.covers(each, places) for entry in allowed):
            yield f"{each.kind} by {each.by} after {each.stage or 'the start'}: {shortened(each.what, places)[:300]}"


if __name__ == "__main__":
    main(sys.argv[1:])
