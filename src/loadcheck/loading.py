"""`loadcheck load`: runs a profile's load in child processes and judges the run folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadcheck.checking import gather, parse_run_log
from loadcheck.errors import (
    EXIT_BAD_INPUT,
    EXIT_FAIL,
    EXIT_MACHINE,
    EXIT_PASS,
    BadInput,
)
from loadcheck.figures import Figures
from loadcheck.preparing import Prepared
from loadcheck.running import Work, run, write_results
from loadcheck.runs.ahead import Ahead
from loadcheck.runs.folder import RunFolder
from loadcheck.runs.record import RunRecord
from loadcheck.verdict import Check, Evidence, Finding, Status, Verdict, judge
from loadcheck.verdict.run import process_finding


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


def load(
    prepared: Prepared, run_dir: Path | None, on_output: Callable[[bytes], None], ahead: Ahead | None = None
) -> Loaded:
    """Run the load in child processes, record it in a run folder, and judge it."""
    folder, record, log_path = run(prepared, run_dir, on_output, Work(ahead=ahead))
    evidence, verdict = _judge(folder, record, log_path)
    write_results(folder, record, verdict)
    return Loaded(folder, record, evidence, verdict)


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
