"""A run as a page: the verdict and its cause, the card's memory, memory over time, figures, answer, settings, machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from loadcheck.comparing.evidence import recorded_case
from loadcheck.figures import Reading, figure_specs
from loadcheck.logs.events import Answer, Answered, AnsweredAfterTraining
from loadcheck.predict import Prediction
from loadcheck.runs.record import RunRecord
from loadcheck.runs.sampler import Sample
from loadcheck.show.page.chart import loss_chart, memory_chart
from loadcheck.show.page.facts import (
    machine_facts,
    rerun_command,
    run_facts,
    shown_settings,
    shown_table,
    version_facts,
)
from loadcheck.show.page.figures import failures_of, others_of, rows_of
from loadcheck.show.page.memory import Memory, memory_of
from loadcheck.show.page.render import render
from loadcheck.show.page.training import TrainedPart
from loadcheck.show.verdict import cause_and_fix, summary
from loadcheck.stacks import predict
from loadcheck.verdict import Evidence, Verdict

ANSWERS: dict[type[Answer], str] = {Answered: "Answer", AnsweredAfterTraining: "Answer after training"}


def run_page(
    record: RunRecord,
    evidence: Evidence | None,
    verdict: Verdict,
    samples: Sequence[Sequence[Sample]],
    training: TrainedPart | None = None,
) -> str:
    """The page of a run.

    Args:
        samples: those of each process, as far as they were kept.
        training: the training's part; None for a load.
    """
    case = None if evidence is None else recorded_case(evidence, record)
    prediction = None if case is None else predict(case)
    cause, fix = cause_and_fix(verdict)
    peak_bytes = None if prediction is None else prediction.figures.peak_device_bytes
    part = TrainedPart((), (), "", peak_bytes) if training is None else training
    return render(
        "run",
        title=record.id,
        status=verdict.status,
        summary=summary(verdict),
        cause=cause,
        fix=fix,
        memory=None if prediction is None or evidence is None else _memory(prediction, evidence, record),
        chart=memory_chart(samples, evidence, part.peak_bytes),
        failures=failures_of(verdict, evidence),
        rows=() if evidence is None else rows_of(evidence, verdict, part.rows),
        others=others_of(verdict, evidence),
        answers=() if evidence is None else tuple(_answers(evidence)),
        loss=loss_chart(evidence),
        job=part.settings,
        **_context(record, evidence),
        command=_command(evidence) if training is None else training.command,
    )


def _command(evidence: Evidence | None) -> str:
    return "" if evidence is None else rerun_command(evidence.profile)


def _context(record: RunRecord, evidence: Evidence | None) -> dict[str, Any]:
    """What was loaded, with which settings, on which machine and versions."""
    profile = None if evidence is None else evidence.profile
    return {
        "facts": tuple(run_facts(record, evidence)),
        "notes": record.notes,
        "settings": tuple(shown_table(record.profile)) if profile is None else shown_settings(profile),
        "machine": machine_facts(evidence, record),
        "versions": version_facts(evidence, record),
    }


def _memory(prediction: Prediction, evidence: Evidence, record: RunRecord) -> Memory | None:
    gpu = record.machine.get("gpu")
    used = None if gpu is None else gpu["total_bytes"] - gpu["free_bytes"]
    return memory_of(prediction, readings_of(evidence), used)


def readings_of(evidence: Evidence) -> Mapping[str, Reading]:
    """Every figure that the log states, by attribute."""
    return {name: reading for name in figure_specs() if (reading := evidence.attempt.reading(name)) is not None}


def _answers(evidence: Evidence) -> Iterator[tuple[str, str, str]]:
    """Title, prompt and answer of each answer in our engine's events."""
    for kind, title in ANSWERS.items():
        answer = evidence.attempt.last(kind)
        if answer is not None and answer.text is not None:
            yield title, answer.prompt or "", answer.text
