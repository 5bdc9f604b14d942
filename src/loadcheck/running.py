"""One run: its steps in child processes, recorded in a run folder however it ends."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

from loadcheck import __version__
from loadcheck.errors import (
    LoadcheckError,
)
from loadcheck.plan import plan_to_json
from loadcheck.preparing import Prepared
from loadcheck.runs.ahead import Ahead
from loadcheck.runs.child import ChildEnd, ignore_signals, run_child, signals_as_interrupts, start_child
from loadcheck.runs.folder import RunFolder
from loadcheck.runs.json_file import write_json
from loadcheck.runs.new_folder import create_run_folder, new_run_id
from loadcheck.runs.origin import read_origin
from loadcheck.runs.record import RunRecord
from loadcheck.runs.sampler import Sampler
from loadcheck.runs.secrets import TOKEN_VARIABLES, secrets
from loadcheck.runs.sink import LogSink
from loadcheck.specs.files import to_data
from loadcheck.specs.profile import Profile
from loadcheck.stacks import load_variables
from loadcheck.verdict import Verdict

_ENCODING = "utf-8:backslashreplace"  # of the log, whatever the machine's locale
REDIRECTS = ("PYTHONPATH", "PYTHONHOME", "PYTHONUSERBASE", "PYTHONSTARTUP")
"""Environment variables that put other packages before the pinned ones. The load drops them, and doctor names what they shadow."""
MEASURED_STEPS = ("load", "train")
"""The steps whose peaks of memory are those of the run."""


@dataclass(frozen=True, slots=True)
class Work:
    """What a run does.

    Attributes:
        steps: the child processes, one after another (engines/child.py); memory is judged in the last one.
        begin: writes what they read into the folder, in addition to the plan.
        after: called after each step that succeeded; an exception ends the run.
        training: for run.json: what is trained, and the prediction for it.
        ahead: the process that was started for the last step before there was a plan; None to start one when the step comes.
    """

    steps: tuple[str, ...] = ("prepare", "load")
    begin: Callable[[RunFolder], None] = lambda _: None
    after: Callable[[str, RunFolder, RunRecord], None] = lambda *_: None
    training: dict[str, Any] | None = None
    ahead: Ahead | None = None


class Run(NamedTuple):
    """A run that has ended.

    Attributes:
        log_path: the file that holds the log; on a full disk it is not in the folder.
    """

    folder: RunFolder
    record: RunRecord
    log_path: Path


def run(prepared: Prepared, run_dir: Path | None, on_output: Callable[[bytes], None], work: Work) -> Run:
    """Do the work in child processes and record it in a run folder."""
    if work.ahead is not None:
        work.ahead.allow_device()
    # The two clocks are read at once: a fleet holds them against each other.
    now, start_s = datetime.now(timezone.utc), time.monotonic()
    folder = create_run_folder(run_dir, new_run_id(prepared.plan.profile.name, now))
    record = _new_record(folder, prepared, now, work.training)
    folder.write_record(record)
    try:
        log_path = _run(folder, record, prepared, on_output, work)
    except LoadcheckError as error:
        record.outcome, record.reason, record.exit_code = "failed", str(error), error.exit_code
        raise
    except BaseException as error:
        record.outcome, record.reason = "failed", f"loadcheck itself failed: {type(error).__name__}: {error}"
        raise
    finally:
        with ignore_signals():
            record.ended_at = datetime.now(timezone.utc).isoformat()
            record.duration_s = round(time.monotonic() - start_s, 2)
            folder.release_reserve()
            write_results(folder, record)
    return Run(folder, record, log_path)


def _new_record(folder: RunFolder, prepared: Prepared, now: datetime, training: dict[str, Any] | None) -> RunRecord:
    return RunRecord(
        id=folder.path.name,
        loadcheck=__version__,
        commit=_commit(),
        profile=to_data(prepared.plan.profile),
        machine={
            "gpu": asdict(prepared.gpu) if prepared.gpu else None,
            "ram_available_bytes": prepared.case.ram_available_bytes,
            "python": sys.version.split()[0],
        },
        predicted=prepared.prediction.figures.to_json(),
        started_at=now.isoformat(),
        training=training,
        origin=read_origin(os.environ),
    )


def _commit() -> str | None:
    """The commit of this checkout; outside of one that of $LOADCHECK_COMMIT, else None."""
    try:
        here = Path(__file__).parent
        result = subprocess.run(
            ["git", "-C", str(here), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
        )
    except OSError:
        return os.environ.get("LOADCHECK_COMMIT")
    return result.stdout.strip() if result.returncode == 0 else os.environ.get("LOADCHECK_COMMIT")


def _run(
    folder: RunFolder, record: RunRecord, prepared: Prepared, on_output: Callable[[bytes], None], work: Work
) -> Path:
    """Do the work and record how it ended, whatever happens; returns the file that holds the log."""
    sink = LogSink(folder.log_path, secrets(os.environ))
    try:
        with signals_as_interrupts():
            write_json(folder.plan_path, plan_to_json(prepared.plan))
            work.begin(folder)
            end = _run_children(prepared.plan.profile, work, _Recording(folder, record, sink, on_output))
    except KeyboardInterrupt:  # between two children
        end = ChildEnd(0, interrupted=True)
    finally:
        log_path = sink.close()
        if sink.note:
            record.notes.append(sink.note)
    record.outcome, record.reason, record.exit_code = end.outcome, end.reason, end.exit_code
    return log_path


@dataclass(frozen=True, slots=True)
class _Recording:
    """Where the child processes of a run are recorded, and shown."""

    folder: RunFolder
    record: RunRecord
    sink: LogSink
    on_output: Callable[[bytes], None]


def _run_children(profile: Profile, work: Work, recording: _Recording) -> ChildEnd:
    """Run each step in its own process, so that making the weights leaves no trace in the figures of the load."""
    env, folder = child_environment(), recording.folder
    for step in work.steps:
        if work.ahead is not None and step == work.steps[-1]:
            child = work.ahead.load(folder.path)
        else:
            own = load_variables(profile) if step == "load" else {}
            child = start_child(child_command(step, folder), {**env, **own})
        end = _run_step(step, child, recording)
        if end.outcome != "completed":
            return end
        work.after(step, folder, recording.record)
        for name in TOKEN_VARIABLES:  # the weights are local by now
            env.pop(name, None)
    return end


def _run_step(step: str, child: subprocess.Popen[bytes], recording: _Recording) -> ChildEnd:
    """Run one child to its end, while its memory is sampled."""
    sampler = Sampler(recording.folder.memory_path, child.pid)
    try:
        with ExitStack() as stack:

            def start_sampler(_pid: int) -> None:
                stack.enter_context(sampler)

            return run_child(child, recording.sink, start_sampler, recording.on_output)
    finally:
        if step in MEASURED_STEPS:
            recording.record.peak_device_bytes = sampler.peak_device_bytes
            recording.record.peak_host_bytes = sampler.peak_child_bytes


def child_environment() -> dict[str, str]:
    """The environment of a process that imports the stack: ours without the variables that put other packages before the pinned ones."""
    env = {name: value for name, value in os.environ.items() if name not in REDIRECTS}
    return env | {"PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": _ENCODING, "PYTHONNOUSERSITE": "1"}


def child_command(step: str, folder: RunFolder) -> list[str]:
    """The command of the engine's process for one step, such as "prepare" or "load". That process ends when this one does."""
    return [sys.executable, "-m", "loadcheck.engines.child", step, str(folder.path), str(os.getpid())]


def write_results(folder: RunFolder, record: RunRecord, verdict: Verdict | None = None) -> None:
    """Write run.json and the verdict, if there is one. On a full disk these are lost, but not the log and not the report on screen."""
    if verdict is not None:
        _try_write(record, folder.verdict_path, verdict.to_json())
    _try_write(record, folder.record_path, asdict(record))


def _try_write(record: RunRecord, path: Path, data: dict[str, Any]) -> None:
    try:
        write_json(path, data)
    except OSError as error:
        note = f"{path}: could not be written ({error.strerror})"
        if note not in record.notes:
            record.notes.append(note)
