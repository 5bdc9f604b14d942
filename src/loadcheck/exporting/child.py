"""The processes that hold a model while it is written, proven or asked: this one never imports torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import IO, Any

from loadcheck.errors import (
    EXIT_BAD_INPUT,
    EXIT_FAIL,
    EXIT_MACHINE,
    BadInput,
    LoadcheckError,
    Problem,
    UnsupportedMachine,
)
from loadcheck.loading import child_environment
from loadcheck.runs.child import ChildEnd, kill_session, signals_as_interrupts

TAIL_CHARS = 2000
"""Of what a process printed, looked at for its last line."""


class StepFailed(LoadcheckError):  # noqa: N818: it names what happened
    """A process that ended in a way that nobody foresaw: killed, or by an error of a library."""

    exit_code = EXIT_FAIL


def command(step: str) -> list[str]:
    """The process of one step: "write", "prove" or "answer"."""
    return [sys.executable, "-m", "loadcheck.engines.exported", step, str(os.getpid())]


def run_step(step: str, request: dict[str, Any], on_text: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """What a step found, its last line; `on_text` gets each piece of an answer as it comes.

    Raises:
        BadInput, UnsupportedMachine: as the step itself says.
        StepFailed: it ended without a result.
    """
    with tempfile.TemporaryFile() as noise, signals_as_interrupts():
        child = subprocess.Popen(
            command(step),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=noise,
            env=child_environment(),
            start_new_session=True,
        )
        try:
            last = _talk(child, request, on_text)
            code = child.wait()
        finally:
            kill_session(child.pid)
            child.wait()
            for pipe in (child.stdin, child.stdout):
                _close(pipe)
        return _result(step, last, code, noise)


def _close(pipe: IO[bytes] | None) -> None:
    try:
        if pipe is not None:
            pipe.close()
    except BrokenPipeError:  # it had ended before it was asked
        pass


def _talk(child: subprocess.Popen[bytes], request: dict[str, Any], on_text: Callable[[str], None]) -> dict[str, Any]:
    """Hand over the request and hear the process out; gives its last line that is no text."""
    assert child.stdin is not None and child.stdout is not None
    try:
        child.stdin.write(json.dumps(request).encode("ascii"))
        child.stdin.close()
    except BrokenPipeError:
        return {}
    last: dict[str, Any] = {}
    for line in child.stdout:
        said = json.loads(line)
        if "text" in said:
            on_text(said["text"])
        else:
            last = said
    return last


def _result(step: str, last: dict[str, Any], code: int, noise: IO[bytes]) -> dict[str, Any]:
    if code == 0 and last:
        return last
    kinds = {EXIT_BAD_INPUT: BadInput, EXIT_MACHINE: UnsupportedMachine}
    if code in kinds and "problems" in last:
        raise kinds[code](Problem(**each) for each in last["problems"])
    noise.seek(max(0, noise.seek(0, os.SEEK_END) - TAIL_CHARS))
    lines = noise.read().decode("utf-8", "replace").split("\n")
    said = next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")
    reason = ChildEnd(code, interrupted=False).reason.removeprefix("the loading process ") or "ended without a result"
    raise StepFailed(Problem(f"step `{step}`", f"its process {reason}: {said}", "free memory, or see that line"))
