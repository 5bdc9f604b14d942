"""Running the load as a child process: its output as it comes, and its end, however it comes."""

from __future__ import annotations

import math
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType

import psutil

from loadcheck.runs.sink import LogSink

POLL_S = 0.2
GRACE_S = 5.0
"""How long the child may take to end after it was asked to, before it is killed."""
DRAIN_S = 2.0
"""How long what is left in the pipe is read once all writers that we know of are dead."""

Take = Callable[[bytes], None]


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


def start_child(
    command: Sequence[str], env: dict[str, str], stdin: int = subprocess.DEVNULL
) -> subprocess.Popen[bytes]:
    """Start `command` in a session of its own, with stdout and stderr as one stream."""
    return subprocess.Popen(
        command, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env, start_new_session=True
    )


@dataclass(frozen=True, slots=True)
class Asking:
    """How a child is asked to end, before it is killed.

    Attributes:
        number: the signal.
        alone: its first process alone gets it, and ends the others itself; else its whole group.
        grace_s: how long it may take.
    """

    number: signal.Signals = signal.SIGINT
    alone: bool = False
    grace_s: float = GRACE_S

    def ask(self, pid: int) -> None:
        with suppress(ProcessLookupError, PermissionError):
            (os.kill if self.alone else os.killpg)(pid, self.number)


def run_child(
    child: subprocess.Popen[bytes],
    sink: LogSink,
    on_start: Callable[[int], None],
    on_output: Take,
    asking: Asking = Asking(),  # noqa: B008: frozen
) -> ChildEnd:
    """Hear a child out (`start_child`), to its end or ours, which it is asked to as `asking` says.

    Whatever it printed is in `sink`, however it ended. Nothing of its session outlives this call.
    """

    def take(data: bytes) -> None:
        sink.write(data)
        on_output(data)

    interrupted = False
    with ends_as_interrupts():
        try:
            on_start(child.pid)
            _follow(child, take)
        except KeyboardInterrupt:
            interrupted = True
            _end(child, take, asking)
        finally:
            with ignore_signals():
                exit_code = _reap(child, take)
    return ChildEnd(exit_code, interrupted)


def _follow(child: subprocess.Popen[bytes], take: Take, limit_s: float = math.inf) -> None:
    """Pass on the child's output until it has ended, or for `limit_s`.

    What counts is the child's own end: a process that it left behind may hold the pipe, or print into it for ever.
    """
    assert child.stdout is not None
    descriptor = child.stdout.fileno()
    deadline_s = time.monotonic() + limit_s
    while child.poll() is None and time.monotonic() < deadline_s:
        if not select.select([descriptor], [], [], POLL_S)[0]:
            continue
        if data := os.read(descriptor, 65536):
            take(data)
        else:  # it closed its output, and may go on
            with suppress(subprocess.TimeoutExpired):
                child.wait(POLL_S)


def _end(child: subprocess.Popen[bytes], take: Take, asking: Asking) -> None:
    """Ask the child to end, and hear it out; asked twice, it is killed at once."""
    asking.ask(child.pid)
    with suppress(KeyboardInterrupt):
        _follow(child, take, asking.grace_s)


def _reap(child: subprocess.Popen[bytes], take: Take) -> int:
    """The child's exit code; it and what it left behind are dead, and what they printed is taken."""
    assert child.stdout is not None
    kill_session(child.pid)
    exit_code = child.wait()
    kill_session(child.pid)  # what was started while the others were killed
    descriptor = child.stdout.fileno()
    os.set_blocking(descriptor, False)
    deadline_s = time.monotonic() + DRAIN_S  # a process in another session may still print
    with suppress(BlockingIOError):
        while time.monotonic() < deadline_s and (data := os.read(descriptor, 65536)):
            take(data)
    child.stdout.close()
    return exit_code


def kill_session(session: int) -> None:
    """Kill every process of a session but the one that asks, whichever process group it is in."""
    for pid in psutil.pids():
        with suppress(ProcessLookupError, PermissionError):
            if pid != os.getpid() and os.getsid(pid) == session:
                os.kill(pid, signal.SIGKILL)


_ENDS = (signal.SIGTERM, signal.SIGHUP)


@contextmanager
def ends_as_interrupts() -> Iterator[None]:
    """Take SIGTERM (a CI job that is cancelled, a container that is stopped) and SIGHUP (a lost terminal) as Ctrl-C is taken.

    One that is ignored stays so: under nohup a load goes on without its terminal.
    """

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    with _handling(interrupt, *(number for number in _ENDS if signal.getsignal(number) != signal.SIG_IGN)):
        yield


@contextmanager
def ignore_signals() -> Iterator[None]:
    """Let no signal cut short the second in which the end is found out and written down."""
    with _handling(signal.SIG_IGN, signal.SIGINT, *_ENDS):
        yield


@contextmanager
def _handling(handler: signal._HANDLER, *numbers: signal.Signals) -> Iterator[None]:
    try:
        before = [signal.signal(number, handler) for number in numbers]
    except ValueError:  # not in the main thread: nobody sends us signals there
        yield
        return
    try:
        yield
    finally:
        for number, old in zip(numbers, before, strict=True):
            signal.signal(number, old)
