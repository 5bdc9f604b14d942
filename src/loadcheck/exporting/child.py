"""Runs the child processes that load a model to write, prove or query it: the parent never imports torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
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
from loadcheck.running import child_environment
from loadcheck.runs.child import ChildEnd, kill_session, signals_as_interrupts

TAIL_CHARS = 2000
"""How much of a process's output is searched for its last line."""


class StepFailed(LoadcheckError):  # noqa: N818: it names what happened
    """A child process ended unexpectedly: it was killed, or a library raised an error."""

    exit_code = EXIT_FAIL


def command(step: str) -> list[str]:
    """The command of one step: "write", "prove", "base" or "answer"."""
    return [sys.executable, "-m", "loadcheck.engines.exported", step, str(os.getpid())]


def run_step(step: str, request: dict[str, Any], on_text: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """The result of a step, which is its last line; `on_text` is called with each piece of an answer.

    Raises:
        BadInput, UnsupportedMachine: as the step reports them.
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
            _close_pipes(child)
        return _result(step, last, code, noise)


def _close_pipes(child: subprocess.Popen[bytes]) -> None:
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            with suppress(BrokenPipeError):  # the process ended before it read its request
                pipe.close()


def _talk(child: subprocess.Popen[bytes], request: dict[str, Any], on_text: Callable[[str], None]) -> dict[str, Any]:
    """Send the request and read all output; returns the last line that is not a piece of text."""
    assert child.stdin is not None and child.stdout is not None
    try:
        child.stdin.write(json.dumps(request).encode("ascii"))
        child.stdin.close()
    except BrokenPipeError:
        return {}
    last: dict[str, Any] = {}
    for line in child.stdout:
        message = json.loads(line)
        if "text" in message:
            on_text(message["text"])
        else:
            last = message
    return last


def _result(step: str, last: dict[str, Any], code: int, noise: IO[bytes]) -> dict[str, Any]:
    if code == 0 and last:
        return last
    kinds = {EXIT_BAD_INPUT: BadInput, EXIT_MACHINE: UnsupportedMachine}
    if code in kinds and "problems" in last:
        raise kinds[code](Problem(**problem) for problem in last["problems"])
    noise.seek(max(0, noise.seek(0, os.SEEK_END) - TAIL_CHARS))
    lines = noise.read().decode("utf-8", "replace").split("\n")
    last_line = next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")
    reason = ChildEnd(code, interrupted=False).reason.removeprefix("the loading process ") or "ended without a result"
    raise StepFailed(Problem(f"step `{step}`", f"its process {reason}: {last_line}", "free memory, or see that line"))
