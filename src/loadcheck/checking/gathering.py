"""Gathers the evidence for judging a log or a run folder: its model, its card, its profile, and the prediction."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from loadcheck.checking.card import card_of_log, golden_ranges, named_card
from loadcheck.checking.profile import profile_of
from loadcheck.checking.shape import shape_of_log
from loadcheck.logs import Attempt, ParsedLog
from loadcheck.runs.folder import RunFolder
from loadcheck.runs.json_file import own_file
from loadcheck.runs.record import RunRecord
from loadcheck.specs.model import find_model
from loadcheck.specs.trouble import failure_words
from loadcheck.stacks import parse_log, stack_of, stack_of_log
from loadcheck.verdict import Evidence

ROUNDED_S = 0.01
"""Tolerance: a run's duration is rounded to hundredths of a second, and its events to thousandths."""


def parse_run_log(path: Path) -> ParsedLog:
    """Parse the log of a run folder; BadInput if it holds no line of a load, or is a link."""
    return parse_log(own_file(path), failure_words())


def read_log(target: Path) -> ParsedLog:
    """Parse a log, or that of a run folder; BadInput if it is neither, or holds no line of a load."""
    if not target.is_dir():
        return parse_log(target, failure_words())
    folder = RunFolder(target)
    folder.read_record()
    return parse_run_log(folder.log_path)


def gather(
    target: Path,
    profile_name: str | None = None,
    gpu: str | None = None,
    *,
    any_release: bool = False,
    log: ParsedLog | None = None,
    record: RunRecord | None = None,
    overrides: dict[str, Any] | None = None,
) -> Evidence:
    """Everything known about a run folder or a log.

    BadInput if it is neither, if a name is unknown, or if a name or setting contradicts the run or its log.

    Args:
        any_release: also predict the figures of logs of other engine releases, which compute some figures differently.
        log, record: those of a run, if already read; on a full disk they may be missing from its folder.
        overrides: settings of the load by dotted key of a profile, for what a log from elsewhere does not state.
    """
    if record is None and target.is_dir():
        record = RunFolder(target).read_record()
    if log is None:
        log = parse_log(target, failure_words()) if record is None else parse_run_log(RunFolder(target).log_path)
    attempt = log.last
    model = find_model(str(reading.value)) if (reading := attempt.reading("model")) else None
    profile = profile_of(record, profile_name, overrides or {}, attempt, model)
    key = named_card(gpu, card_of_log(attempt, profile), target)
    config, note = shape_of_log(model, attempt, any_release)
    evidence = Evidence(
        log=log,
        stack=stack_of_log(attempt, profile),
        profile=profile,
        model=model,
        config=config,
        prediction_note=note,
        expected=golden_ranges(profile, key),
        gpu=key,
        process=None if record is None else _end_of(record, attempt),
        machine={} if record is None else record.machine,
        assumed=record is None and profile_name is None and profile is not None,
        strict_stack=record is not None or profile_name is not None,
    )
    return _with_prediction(evidence)


def _end_of(record: RunRecord, attempt: Attempt) -> tuple[str, str]:
    """How the run ended; a completed run whose run.json cannot be true counts as failed."""
    if record.outcome == "completed" and (why := next(_untrue(record, attempt), None)) is not None:
        return "failed", f"run.json says that the run completed, but also that {why}"
    return record.outcome, record.reason


def _untrue(record: RunRecord, attempt: Attempt) -> Iterator[str]:
    """What a completed run's record says that cannot be true."""
    if record.exit_code != 0:
        yield f"its exit code was {record.exit_code}"
    gpu = record.machine.get("gpu")
    total = gpu.get("total_bytes") if isinstance(gpu, dict) else None
    if type(total) is int and record.peak_device_bytes is not None and record.peak_device_bytes > total:
        yield f"{record.peak_device_bytes} bytes of the card were in use, which has {total}"
    last_s = max((logged.event.at_s or 0.0 for logged in attempt.events if logged.event is not None), default=0.0)
    if record.duration_s is not None and last_s > record.duration_s + ROUNDED_S:
        yield f"it took {record.duration_s} s, and the engine's events go on until {last_s} s after its process began"


def _with_prediction(evidence: Evidence) -> Evidence:
    """The evidence with the figures predicted from its own free memory and settings."""
    profile, config = evidence.profile, evidence.config
    if config is None:
        return evidence
    stack = stack_of_log(evidence.attempt) if profile is None else stack_of(profile)
    if profile is not None and find_model(profile.model) != evidence.model:
        profile = None  # another model is a finding of its own; the figures are predicted for the log's model
    found = stack.predict_from_log(evidence.attempt, config, profile, evidence.gpu)
    return dataclasses.replace(
        evidence,
        predicted=found.figures,
        bands=found.bands,
        prediction_note=found.note or evidence.prediction_note,
        case=found.case,
    )
