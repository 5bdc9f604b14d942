"""What a judgement of a training looks at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from loadcheck.findings.evidence import Evidence
from loadcheck.logs.event import EventT
from loadcheck.runs.steps import Step
from loadcheck.specs.training import TrainJob
from loadcheck.verdict.training.records import Records
from loadcheck.workloads.peaks import Peaks


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainEvidence:
    """What a judgement of a training looks at.

    Attributes:
        evidence: that of its log, as for a load.
        steps: the steps in steps.jsonl.
        peaks: predicted for the run's own longest batch; None if the run had no batch.
        records: what the other files of the run folder say of it; None if they are not known.
    """

    evidence: Evidence
    job: TrainJob
    steps: Sequence[Step]
    peaks: Peaks | None
    records: Records | None = None

    def last(self, event_type: type[EventT]) -> EventT | None:
        return self.evidence.attempt.last(event_type)
