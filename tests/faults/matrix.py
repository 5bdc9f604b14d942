"""The faults as data: what is done to a load, at which moments, and what must be reported afterwards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from tests.faults import injectors
from tests.faults.injectors import Scene

EVERY = (
    "weights made",
    "start",
    "plan",
    "weights",
    "profiled",
    "blocks",
    "graphs",
    "ready",
    "adapters",
    "answer",
    "end",
)
SOME = ("start", "weights", "graphs", "answer", "end")
EARLY = ("start", "plan", "weights", "profiled", "graphs")
FEW = ("weights", "graphs", "answer")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One kind of fault.

    Attributes:
        what: in words, for the table of docs/faults.md.
        action: what the stand-in does at the moment (tests/faults/stand_in.py).
        moments: of the load; each is one run.
        inject: what the test does when the stand-in has reached the moment; None if the stand-in does it alone.
        setting: the run's surroundings: a small disk, a control group, variables.
        outcome, says: of run.json, and words of its reason or notes, or of the error if nothing was loaded.
        exit_code: of `loadcheck load`, or several if it depends on the microsecond; negative for a signal.
        passes: whether the load still completes with PASS; any other verdict is then wrong.
        later: the exit code of `report` and `check`.
        slow: whether a run takes so long that only `make faults` has it.
    """

    name: str
    what: str
    action: str
    moments: tuple[str, ...] = SOME
    inject: Callable[[Scene], None] | None = None
    setting: Callable[[Scene], None] = injectors.no_setting
    outcome: str = "completed"
    says: str = ""
    exit_code: int | tuple[int, ...] = 1
    passes: bool = False
    later: int = 1
    slow: bool = False
    check: Callable[[Scene], None] = field(default=injectors.no_more_checks)


def ended(name: str, what: str, action: str, **other: object) -> Fault:
    return Fault(name=name, what=what, action=action, **other)  # type: ignore[arg-type]


def survived(name: str, what: str, action: str, **other: object) -> Fault:
    """A fault that the load survives: PASS and exit 0, also later."""
    return Fault(name=name, what=what, action=action, exit_code=0, passes=True, later=0, **other)  # type: ignore[arg-type]


KILLED = {"outcome": "killed", "says": "SIGKILL"}
INTERRUPTED = {"outcome": "interrupted", "says": "the user ended it"}

FAULTS = (
    ended("child-killed", "kill -9 of the loading process", "kill", moments=EVERY, **KILLED),
    ended("child-segv", "the loading process crashes in native code", "segv", outcome="killed", says="SIGSEGV"),
    ended("child-abort", "the loading process aborts", "abort", moments=FEW, outcome="killed", says="SIGABRT"),
    ended("child-raises", "the engine raises an error", "fail", outcome="failed", says="exit code 1"),
    ended("child-ends-early", "the loading process ends with exit code 0 before its work is done", "end_early",
          moments=EVERY[1:10]),
    ended("parent-killed", "kill -9 of loadcheck itself", "pause", moments=EVERY, inject=injectors.kill_parent,
          outcome="running", exit_code=-9),
    ended("parent-killed-leaving", "kill -9 of loadcheck, while the loading process has one of its own", "leave_and_pause",
          moments=FEW, inject=injectors.kill_parent, outcome="running", exit_code=-9),
    ended("parent-terminated", "SIGTERM to loadcheck", "pause", inject=injectors.terminate, **INTERRUPTED),
    ended("parent-interrupted", "Ctrl-C", "pause", inject=injectors.interrupt, **INTERRUPTED),
    ended("parent-interrupted-thrice", "Ctrl-C, three times at once", "hang", moments=FEW,
          inject=injectors.interrupt_thrice, exit_code=(1, 130, -2), **INTERRUPTED),
    ended("terminal-lost", "SIGHUP to loadcheck: its terminal is gone", "pause", moments=FEW, inject=injectors.hang_up,
          **INTERRUPTED),
    ended("child-hangs", "a loading process that answers to no signal, and Ctrl-C", "hang", moments=FEW,
          inject=injectors.interrupt, **INTERRUPTED),
    ended("child-stopped", "SIGSTOP of the loading process, and Ctrl-C", "stop", moments=FEW, inject=injectors.interrupt,
          **INTERRUPTED),
    ended("child-mute", "the loading process closes its output and hangs; Ctrl-C", "close_output", moments=FEW,
          inject=injectors.interrupt, **INTERRUPTED),
    ended("host-memory", "the host's memory is used up (a control group of 300 MiB)", "eat_memory", moments=FEW,
          setting=injectors.small_memory, **KILLED),
    survived("child-leaves-a-process", "the loading process leaves a process behind, in a group of its own", "leave_a_process"),
    ended("child-leaves-a-talker", "the loading process dies, and one that it left prints on for ever", "leave_and_die",
          moments=FEW, **KILLED),
    ended("disk-full", "the disk of the run folder is full while the log is written", "fill", moments=EARLY, setting=injectors.small_disk,
          says="No space left on device", exit_code=0, passes=True, check=injectors.log_was_moved),
    survived("folder-read-only", "the run folder becomes read-only", "meet", moments=FEW, inject=injectors.make_read_only,
             setting=injectors.without_dac_override, says="could not be written"),
    survived("folder-removed", "the run folder is removed", "meet", moments=FEW, inject=injectors.remove_folder,
             says="was removed"),
    survived("output-unread", "nobody reads what loadcheck prints (`loadcheck load | head -1`)", "meet",
             moments=FEW, inject=injectors.close_our_output),
    survived("clock-back", "the clock goes back a day", "meet", moments=FEW, inject=injectors.go_on,
             setting=injectors.clock(-86_400), check=injectors.durations_are_plausible),
    survived("clock-forward", "the clock goes forward a day", "meet", moments=FEW, inject=injectors.go_on,
             setting=injectors.clock(86_400), check=injectors.durations_are_plausible),
    survived("encoding", "PYTHONIOENCODING is utf-16, and the engine prints in it", "speak", moments=FEW,
             setting=injectors.variables(PYTHONIOENCODING="utf-16")),
    survived("latin-1", "a library prints in Latin-1", "latin_1", moments=FEW),
    survived("binary", "a library prints two megabytes of binary data", "binary"),
    survived("flood", "a library prints 200 MB", "flood", moments=("weights",), slow=True),
    survived("token", "a library prints the hub's token, in an error and in an address", "token",
             moments=EARLY, setting=injectors.token, check=injectors.token_is_nowhere),
    survived("token-in-pieces", "… letter by letter, and it is set in a file", "token_in_pieces", moments=FEW,
             setting=injectors.token_in_a_file, check=injectors.token_is_nowhere),
    survived("second-load", "a second load in the same run folder, while the first runs", "meet", moments=SOME,
             inject=injectors.second_load),
    survived("two-loads-at-once", "two loads in one run folder, started at the same moment", "latin_1", moments=FEW,
             setting=injectors.twin, check=injectors.twin_was_refused),
    survived("gpu-lost", "the GPU disappears from NVML", "meet", moments=SOME, inject=injectors.lose_gpu,
             setting=injectors.false_nvml, check=injectors.peak_is_kept),
)  # fmt: skip
