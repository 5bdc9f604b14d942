"""`loadcheck load`: runs a profile's load in child processes and judges the run folder."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from loadcheck import __version__
from loadcheck.checking import gather, parse_run_log
from loadcheck.errors import (
    EXIT_BAD_INPUT,
    EXIT_FAIL,
    EXIT_MACHINE,
    EXIT_PASS,
    BadInput,
    LoadcheckError,
)
from loadcheck.figures import Figures
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
from loadcheck.verdict import Check, Evidence, Finding, Status, Verdict, judge
from loadcheck.verdict.run import process_finding

_ENCODING = "utf-8:backslashreplace"  # of the log, whatever the machine's locale


def exit_code_of(record: RunRecord, verdict: Verdict) -> int:
    """The child's exit code if it is 2 (bad input) or 3 (this machine cannot); otherwise by the verdict."""
    if record.exit_code in (EXIT_BAD_INPUT, EXIT_MACHINE):
        return record.exit_code
    return EXIT_PASS if verdict.passed else EXIT_FAIL


@dataclass(frozen=True, slots=True)
class Loaded:
    """A load that has ended, successfully or not. `evidence` is None if the log holds no line of a load."""

    folder: RunFolder
    record: RunRecord
    evidence: Evidence | None
    verdict: Verdict

    @property
    def exit_code(self) -> int:
        return exit_code_of(self.record, self.verdict)

    def to_json(self) -> dict[str, Any]:
        figures = self.evidence.attempt.figures if self.evidence else Figures()
        return {
            "run": str(self.folder.path),
            "outcome": self.record.outcome,
            "reason": self.record.reason,
            "figures": figures.to_json(),
            "predicted": self.record.predicted,
            **self.verdict.to_json(),
        }


def judge_folder(
    path: Path, profile: str | None = None, gpu: str | None = None, overrides: dict[str, Any] | None = None
) -> Loaded:
    """Judge a run folder again, as `loadcheck report` does; BadInput if a profile, card or setting is given that differs from the run's."""
    folder = RunFolder(path)
    record = folder.read_record()
    evidence, verdict = _judge(folder, record, folder.log_path, profile, gpu, overrides)
    return Loaded(folder, record, evidence, verdict)


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


def load(
    prepared: Prepared, run_dir: Path | None, on_output: Callable[[bytes], None], ahead: Ahead | None = None
) -> Loaded:
    """Run the load in child processes, record it in a run folder, and judge it."""
    folder, record, log_path = run(prepared, run_dir, on_output, Work(ahead=ahead))
    evidence, verdict = _judge(folder, record, log_path)
    write_results(folder, record, verdict)
    return Loaded(folder, record, evidence, verdict)


def run(
    prepared: Prepared, run_dir: Path | None, on_output: Callable[[bytes], None], work: Work
) -> tuple[RunFolder, RunRecord, Path]:
    """Do the work in child processes and record it in a run folder; returns the folder, its record and the file that holds the log."""
    if work.ahead is not None:
        work.ahead.allow_device()
    now, start_s = (
        datetime.now(timezone.utc),
        time.monotonic(),
    )  # at once: a fleet holds the two clocks against each other
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
    return folder, record, log_path


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
            end = _run_children(prepared.plan.profile, folder, record, sink, on_output, work)
    except KeyboardInterrupt:  # between two children
        end = ChildEnd(0, interrupted=True)
    finally:
        log_path = sink.close()
        if sink.note:
            record.notes.append(sink.note)
    record.outcome, record.reason, record.exit_code = end.outcome, end.reason, end.exit_code
    return log_path


REDIRECTS = ("PYTHONPATH", "PYTHONHOME", "PYTHONUSERBASE", "PYTHONSTARTUP")
"""Environment variables that put other packages before the pinned ones. The load drops them, and doctor names what they shadow."""


def _run_children(
    profile: Profile,
    folder: RunFolder,
    record: RunRecord,
    sink: LogSink,
    on_output: Callable[[bytes], None],
    work: Work,
) -> ChildEnd:
    """Run each step in its own process, so that making the weights leaves no trace in the figures of the load."""
    env = child_environment()
    for step in work.steps:
        if work.ahead is not None and step == work.steps[-1]:
            child = work.ahead.load(folder.path)
        else:
            own = load_variables(profile) if step == "load" else {}
            child = start_child(child_command(step, folder), {**env, **own})
        end = _run_step(step, child, folder, record, sink, on_output)
        if end.outcome != "completed":
            return end
        work.after(step, folder, record)
        for name in TOKEN_VARIABLES:  # the weights are local by now
            env.pop(name, None)
    return end


def child_environment() -> dict[str, str]:
    """The environment of a process that imports the stack: ours without the variables that put other packages before the pinned ones."""
    env = {name: value for name, value in os.environ.items() if name not in REDIRECTS}
    return env | {"PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": _ENCODING, "PYTHONNOUSERSITE": "1"}


def child_command(step: str, folder: RunFolder) -> list[str]:
    """The command of the engine's process for one step, such as "prepare" or "load". That process ends when this one does."""
    return [sys.executable, "-m", "loadcheck.engines.child", step, str(folder.path), str(os.getpid())]


def _run_step(
    step: str,
    child: subprocess.Popen[bytes],
    folder: RunFolder,
    record: RunRecord,
    sink: LogSink,
    on_output: Callable[[bytes], None],
) -> ChildEnd:
    samplers: list[Sampler] = []

    def start_sampler(pid: int) -> None:
        samplers.append(Sampler(folder.memory_path, pid))
        samplers[0].__enter__()

    try:
        return run_child(child, sink, start_sampler, on_output)
    finally:
        for sampler in samplers:
            sampler.__exit__()
            if step in ("load", "train"):
                record.peak_device_bytes = sampler.peak_device_bytes
                record.peak_host_bytes = sampler.peak_child_bytes


def _judge(
    folder: RunFolder,
    record: RunRecord,
    log_path: Path,
    profile: str | None = None,
    gpu: str | None = None,
    overrides: dict[str, Any] | None = None,
) -> tuple[Evidence | None, Verdict]:
    """The verdict on the run; if the log holds no line of a load, by how its process ended."""
    try:
        log = parse_run_log(log_path)
    except BadInput as error:
        return None, judge_without_log(record, error)
    evidence = gather(folder.path, profile, gpu, log=log, record=record, overrides=overrides)
    return evidence, judge(evidence)


def judge_without_log(record: RunRecord, error: BadInput) -> Verdict:
    """The verdict on a run whose log holds no line of a load."""
    return Verdict((no_log(error), process_finding(record.outcome, record.reason)))


def no_log(error: BadInput) -> Finding:
    """The finding of a log that holds no line of a load."""
    return Finding(figure="log", check=Check.SHAPE, status=Status.FAIL, why=str(error))


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
