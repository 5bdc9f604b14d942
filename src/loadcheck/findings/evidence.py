"""What is judged: one attempt of a log, and what is known about it from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from loadcheck.figures import Figures, Kind, Reading, Value
from loadcheck.findings.finding import Check, Finding, Place, Status
from loadcheck.findings.stack import JudgedStack
from loadcheck.logs import Attempt, ParsedLog
from loadcheck.predict.band import Band
from loadcheck.predict.case import Case
from loadcheck.specs.expected import Expected
from loadcheck.specs.model import Model
from loadcheck.specs.profile import Profile
from loadcheck.specs.shape import ModelConfig


def is_parallel(attempt: Attempt) -> bool:
    """Whether a load was spread over several cards: by its engine's line, or by lines of several ranks."""
    size = attempt.reading("tensor_parallel_size")
    return bool(attempt.other_ranks) or (size is not None and str(size.value) != "1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Everything that a judgement looks at. What is None is not known, and the checks that need it are skipped.

    Attributes:
        stack: the one that the log is of.
        model: the model that the log names, where it is one of env/models.
        config: its shape, where its figures are predicted.
        predicted: the figures predicted from this run's own free memory and settings.
        bands: of those predicted figures that are not equal to the digit.
        prediction_note: why there is no prediction.
        case: what `predicted` is the prediction of; None where settings or card are not all known.
        process: how the loading process ended, and the reason in words; None for a log from elsewhere.
        machine: what run.json says of the machine before the load; empty for a log from elsewhere.
        assumed: whether the profile is the one of env/profiles that fits the log, and nobody named it.
        strict_stack: a version other than the pinned one fails; otherwise the log is refused as of another stack.
    """

    log: ParsedLog
    stack: JudgedStack
    profile: Profile | None = None
    model: Model | None = None
    config: ModelConfig | None = None
    predicted: Figures | None = None
    prediction_note: str = ""
    case: Case | None = None
    bands: dict[str, Band] | None = None
    expected: Expected | None = None
    gpu: str | None = None
    process: tuple[str, str] | None = None
    machine: Mapping[str, Any] = field(default_factory=dict)
    assumed: bool = False
    strict_stack: bool = False

    @property
    def attempt(self) -> Attempt:
        return self.log.last

    @property
    def is_parallel(self) -> bool:
        """Whether the load was spread over several cards."""
        return is_parallel(self.attempt)

    def where(self, line: int | None) -> Place:
        return Place(self.log.path.name, line or None)

    def asked(self, wanted_of: Mapping[str, Value], why: str, remedy: str) -> Iterator[Finding]:
        """Findings on the figures that say what the engine was asked for; {figure} and {wanted} in `why` are each one's own."""
        for attribute, wanted in wanted_of.items():
            if (reading := self.attempt.reading(attribute)) is not None:
                said = why.format(figure=reading.spec.name, wanted=wanted)
                yield self.finding(
                    reading, Check.STACK, reading.value == wanted, predicted=wanted, why=said, remedy=remedy
                )

    def finding(self, reading: Reading, check: Check, ok: bool, **fields: object) -> Finding:
        """A finding about what one reading says."""
        spec = reading.spec
        return Finding(
            figure=spec.name,
            check=check,
            status=Status.OK if ok else Status.FAIL,
            measured=spec.to_edge(reading.value, reading.decimals),
            unit="" if spec.kind in (Kind.TEXT, Kind.COUNT) else spec.kind.value,
            where=self.where(reading.line),
            **fields,  # type: ignore[arg-type]
        )
