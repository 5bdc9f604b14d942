"""Runs a child process: streams its output, shuts it down on an interrupt, and reports how it ended."""

from __future__ import annotations

import math
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from types import FrameType

import psutil

from loadcheck.runs.sink import LogSink

POLL_S = 0.2
GRACE_S = 5.0
"""How long the child may take to shut down before it is killed."""
DRAIN_S = 2.0
"""How long the pipe is drained once all known writers are dead."""
KILL_S = 5.0
"""How long killed processes may take to end: one that waits for a device cannot end sooner."""

OnOutput = Callable[[bytes], None]
Take = Callable[[int], bool]
"""Reads once from a descriptor; False at the end of the output."""


@dataclass(frozen=True, slots=True)
class ChildEnd:
    """How a child process ended.

    Attributes:
        exit_code: as subprocess gives it: negative for a signal.
        interrupted: whether the user ended it, by Ctrl-C or by ending this process.
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
        """How it ended, in words; empty if it succeeded."""
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
class Shutdown:
    """How a child is shut down gracefully, before it is killed.

    Attributes:
        number: the signal to send.
        only_leader: whether only its first process gets the signal, and ends the others itself; otherwise its whole process group gets it.
        grace_s: how long it may take.
    """

    number: signal.Signals = signal.SIGINT
    only_leader: bool = False
    grace_s: float = GRACE_S

    def begin(self, pid: int) -> None:
        with suppress(ProcessLookupError, PermissionError):
            (os.kill if self.only_leader else os.killpg)(pid, self.number)


def run_child(
    child: subprocess.Popen[bytes],
    sink: LogSink,
    on_start: Callable[[int], None],
    on_output: OnOutput,
    shutdown: Shutdown = Shutdown(),  # noqa: B008: frozen
    reading: AbstractContextManager[object] | None = None,
) -> ChildEnd:
    """Stream the output of a child (`start_child`) until it exits; on an interrupt, shut it down.

    All of its output is in `sink`, however it ended. No process of its session outlives this call.

    Args:
        reading: a lock, held from reading output to writing it: whoever holds it and finds the pipe empty has all output so far in `sink`.
    """

    def take(descriptor: int) -> bool:
        """Forward the next output; False at its end."""
        with reading or nullcontext():
            if data := os.read(descriptor, 65536):
                sink.write(data)
                on_output(data)
        return bool(data)

    interrupted = False
    with signals_as_interrupts():
        try:
            on_start(child.pid)
            _stream(child, take)
        except KeyboardInterrupt:
            interrupted = True
            _shut_down(child, take, shutdown)
        finally:
            with ignore_signals():
                exit_code = _reap(child, take)
    return ChildEnd(exit_code, interrupted)


def _stream(child: subprocess.Popen[bytes], take: Take, limit_s: float = math.inf) -> None:
    """Forward the child's output until it exits, or for `limit_s`.

    The end of the output is not waited for: a process that the child left behind may hold the pipe, or print into it forever.
    """
    assert child.stdout is not None
    descriptor = child.stdout.fileno()
    deadline_s = time.monotonic() + limit_s
    while child.poll() is None and time.monotonic() < deadline_s:
        if not select.select([descriptor], [], [], POLL_S)[0]:
            continue
        if not take(descriptor):  # it closed its output, but may go on
            with suppress(subprocess.TimeoutExpired):
                child.wait(POLL_S)


def _shut_down(child: subprocess.Popen[bytes], take: Take, shutdown: Shutdown) -> None:
    """Shut the child down and forward its last output; a second interrupt ends the grace period at once."""
    shutdown.begin(child.pid)
    with suppress(KeyboardInterrupt):
        _stream(child, take, shutdown.grace_s)


def _reap(child: subprocess.Popen[bytes], take: Take) -> int:
    """Kill what is left of the child's session and drain its output; returns the child's exit code."""
    assert child.stdout is not None
    kill_session(child.pid)
    exit_code = child.wait()
    descriptor = child.stdout.fileno()
    os.set_blocking(descriptor, False)
    deadline_s = time.monotonic() + DRAIN_S  # a process in another session may still print
    with suppress(BlockingIOError):
        while time.monotonic() < deadline_s and take(descriptor):
            pass
    child.stdout.close()
    return exit_code


def kill_session(session: int) -> None:
    """Kill every process of a session, in any process group, except the calling one; returns once they have ended, or after KILL_S."""
    deadline_s = time.monotonic() + KILL_S
    while (
        alive := list(_alive(session))
    ) and time.monotonic() < deadline_s:  # again, as one may have started another meanwhile
        for pid in alive:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def _alive(session: int) -> Iterator[int]:
    for pid in psutil.pids():
        with suppress(ProcessLookupError, PermissionError, psutil.Error):
            if (
                pid != os.getpid()
                and os.getsid(pid) == session
                and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
            ):
                yield pid


_END_SIGNALS = (signal.SIGTERM, signal.SIGHUP)
REPEAT_S = 0.5
"""A second SIGTERM or SIGHUP within this time is the first one, delivered twice."""


@contextmanager
def signals_as_interrupts() -> Iterator[None]:
    """Handle SIGTERM (a cancelled CI job, a stopped container) and SIGHUP (a lost terminal) like Ctrl-C.

    A signal that is ignored stays ignored: under nohup a load goes on without its terminal. One that arrives again at once is the same
    request: timeout(1) signals its child, and then the child's group.
    """
    last_s: dict[int, float] = {}

    def interrupt(number: int, _frame: FrameType | None) -> None:
        now_s = time.monotonic()
        if now_s - last_s.get(number, -math.inf) > REPEAT_S:
            last_s[number] = now_s
            raise KeyboardInterrupt

    with _handling(interrupt, *(number for number in _END_SIGNALS if signal.getsignal(number) != signal.SIG_IGN)):
        yield


@contextmanager
def ignore_signals() -> Iterator[None]:
    """Ignore signals during the moment in which the child's end is determined and recorded."""
    with _handling(signal.SIG_IGN, signal.SIGINT, *_END_SIGNALS):
        yield


@contextmanager
def _handling(handler: signal._HANDLER, *numbers: signal.Signals) -> Iterator[None]:
    try:
        before = [signal.signal(number, handler) for number in numbers]
    except ValueError:  # signal handlers can be set in the main thread only
        yield
        return
    try:
        yield
    finally:
        for number, old in zip(numbers, before, strict=True):
            signal.signal(number, old)
