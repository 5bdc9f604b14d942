"""Running the load as a child process: its output as it comes, and its end, however it comes."""

from __future__ import annotations

import os
import select
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType

from loadcheck.runs.sink import LogSink

POLL_S = 0.2
GRACE_S = 5.0
"""How long the child may take to end after it was asked to, before it is killed."""


@dataclass(frozen=True, slots=True)
class ChildEnd:
    """How a child process ended.

    Attributes:
        exit_code: as from the system: negative for a signal.
        interrupted: whether the user ended it, by Ctrl-C or by ending us.
    """

    exit_code: int
    interrupted: bool

    @property
    def outcome(self) -> str:
        if self.interrupted:
            return "interrupted"
        if self.exit_code == 0:
            return "completed"
        return "killed" if self.exit_code < 0 else "failed"

    @property
    def reason(self) -> str:
        """In words."""
        if self.interrupted:
            return "the user ended it"
        if self.exit_code >= 0:
            return "" if self.exit_code == 0 else f"the loading process ended with exit code {self.exit_code}"
        try:
            name = signal.Signals(-self.exit_code).name
        except ValueError:
            name = f"signal {-self.exit_code}"
        cause = {
            "SIGKILL": "; most often the system was out of memory (see `dmesg` or the container's memory limit)",
            "SIGSEGV": "; native code crashed",
            "SIGABRT": "; native code gave up",
            "SIGBUS": "; most often /dev/shm or the disk was full",
        }.get(name, "")
        return f"the loading process was ended by {name}{cause}"


def run_child(
    command: Sequence[str],
    sink: LogSink,
    on_start: Callable[[int], None],
    on_output: Callable[[bytes], None],
    env: dict[str, str],
) -> ChildEnd:
    """Run `command` in a session of its own, with stdout and stderr as one stream, to its end or ours.

    Nothing of it outlives this call: what it leaves behind in its session is killed.
    """
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=env,
        start_new_session=True,
    )
    on_start(child.pid)
    interrupted = False
    with _terminate_as_interrupt():
        try:
            for data in _output(child):
                sink.write(data)
                on_output(data)
        except KeyboardInterrupt:
            interrupted = True
            _end(child)
        finally:
            exit_code = _reap(child)
    return ChildEnd(exit_code, interrupted)


def _output(child: subprocess.Popen[bytes]) -> Iterator[bytes]:
    """The child's output until it ends; a grandchild that keeps the pipe open does not hold us up."""
    assert child.stdout is not None
    descriptor = child.stdout.fileno()
    while True:
        ready, _, _ = select.select([descriptor], [], [], POLL_S)
        if ready:
            data = os.read(descriptor, 65536)
            if not data:
                return
            yield data
        elif child.poll() is not None:
            return


def _end(child: subprocess.Popen[bytes]) -> None:
    """Ask the child to end, then make it."""
    _signal(child, signal.SIGINT)
    try:
        child.wait(GRACE_S)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        _signal(child, signal.SIGKILL)


def _reap(child: subprocess.Popen[bytes]) -> int:
    exit_code = child.wait()
    _signal(child, signal.SIGKILL)  # whatever it started and left
    assert child.stdout is not None
    child.stdout.close()
    return exit_code


def _signal(child: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, number)


@contextmanager
def _terminate_as_interrupt() -> Iterator[None]:
    """Take SIGTERM (a CI job that is cancelled, a container that is stopped) as Ctrl-C is taken."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not in the main thread: nobody sends us signals there
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
