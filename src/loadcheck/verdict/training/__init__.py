"""Judges a training: its memory against the prediction, and the silent faults that make a good-looking run worthless."""

from __future__ import annotations

from collections.abc import Iterator

from loadcheck.findings.finding import Finding, Verdict, run_failure
from loadcheck.logs.event import Event, name_of
from loadcheck.logs.events import (
    Attached,
    Device,
    Done,
    Imported,
    Loaded,
    Started,
    TrainBegin,
    TrainData,
    TrainDone,
    TrainPeak,
    TrainRows,
    WeightsLoaded,
    WeightsReady,
)
from loadcheck.verdict.card import check_card
from loadcheck.verdict.diagnosis import check_diagnosis
from loadcheck.verdict.events import check_events
from loadcheck.verdict.model import check_model
from loadcheck.verdict.needed import check_needed
from loadcheck.verdict.run import check_adapter_bytes, process_finding
from loadcheck.verdict.shape import check_errors
from loadcheck.verdict.stack import check_stack
from loadcheck.verdict.training.evidence import TrainEvidence
from loadcheck.verdict.training.memory import check_memory
from loadcheck.verdict.training.progress import check_done, check_losses
from loadcheck.verdict.training.records import check_records
from loadcheck.verdict.training.rows import check_rows
from loadcheck.verdict.training.steps import check_steps

EVENTS: tuple[type[Event], ...] = (WeightsReady, TrainData, Attached, TrainRows, TrainBegin, TrainDone, TrainPeak, Done)
"""The events that every training prints (stacks/trainer.py, engines/training.py)."""
EVENTS_ON_GPU: tuple[type[Event], ...] = (Imported, Device, Loaded)
EVENTS_ON_CPU: tuple[type[Event], ...] = (Started, WeightsLoaded)
"""Those of its load (stacks/unsloth_vllm/engine.py, stacks/transformers_cpu/engine.py)."""
AGAIN = "go on from its newest checkpoint with `loadcheck train --resume RUN`; without one (--save-steps), train again"


def judge_training(training: TrainEvidence) -> Verdict:
    """All findings on the training; a single failure fails it."""
    return Verdict(tuple(_findings(training)))


def _findings(training: TrainEvidence) -> Iterator[Finding]:
    evidence = training.evidence
    assert evidence.process is not None
    yield process_finding(*evidence.process, again=AGAIN)
    yield from check_diagnosis(evidence)
    yield from check_stack(evidence)
    yield from check_card(evidence)
    yield from check_model(evidence)
    yield from check_events(evidence)
    if (attached := training.last(Attached)) is not None:
        yield from check_adapter_bytes(attached)
    yield from check_steps(evidence, training.job, training.steps)
    if training.records is not None:
        yield from check_records(evidence, training.job, training.records)
    if evidence.process[0] == "completed":
        yield from _missing_events(training)
        yield from check_errors(evidence)  # otherwise the findings `process` and the diagnosis tell why it ended
    if (rows := training.last(TrainRows)) is not None:
        yield from check_rows(training, rows)
    if (done := training.last(TrainDone)) is not None:
        yield from check_done(training, done)
    yield from check_losses(training)
    yield from check_memory(training)


def _missing_events(training: TrainEvidence) -> Iterator[Finding]:
    profile = training.evidence.profile
    of_load = EVENTS_ON_CPU if profile is not None and profile.on_cpu else EVENTS_ON_GPU
    for kind in (*of_load, *EVENTS):
        if training.last(kind) is None:
            why = f"the process ended by itself, but its event `{name_of(kind)}` is not in the log"
            yield run_failure(name_of(kind), why, "see the end of load.log")
    yield from check_needed(training.evidence)
