"""What is judged: one attempt of a log, and what is known about it from other sources."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from loadcheck.device import is_wsl
from loadcheck.figures import Figures, Kind, Reading, Value
from loadcheck.findings.finding import Check, Finding, Place, Status
from loadcheck.findings.stack import JudgedStack
from loadcheck.logs import Attempt, ParsedLog
from loadcheck.logs.events import Device
from loadcheck.predict.band import Band
from loadcheck.predict.case import Case
from loadcheck.specs.expected import Expected
from loadcheck.specs.model import Model
from loadcheck.specs.profile import Profile
from loadcheck.specs.shape import ModelConfig


def is_parallel(attempt: Attempt) -> bool:
    """Whether a load was spread over several cards, by its engine's line or by lines of several ranks."""
    size = attempt.reading("tensor_parallel_size")
    return bool(attempt.other_ranks) or (size is not None and str(size.value) != "1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Everything that a judgement looks at. None means unknown; the checks that need it are skipped.

    Attributes:
        stack: the one that printed the log.
        model: the model that the log names, if it is in env/models.
        config: its shape, if its figures are predicted.
        predicted: the figures predicted from this run's own free memory and settings.
        prediction_note: why there is no prediction.
        case: the case that `predicted` was predicted for; None if settings or card are not fully known.
        bands: the bands of those predicted figures that are not exact.
        process: how the loading process ended, and the reason in words; None for a log from elsewhere.
        machine: what run.json records of the machine before the load; empty for a log from elsewhere.
        assumed: whether nobody named the profile, and it is the one of env/profiles that fits the log.
        strict_stack: whether a version other than the pinned one fails the log; otherwise the log is refused as one of another stack.
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

    @property
    def is_wsl(self) -> bool:
        """Whether our engine ran in WSL2, by the kernel that it recorded."""
        device = self.attempt.last(Device)
        return device is not None and device.kernel is not None and is_wsl(device.kernel)

    def where(self, line: int | None) -> Place:
        return Place(self.log.path.name, line or None)

    def setting_findings(self, wanted_of: Mapping[str, Value], why: str, remedy: str) -> Iterator[Finding]:
        """A finding for each figure that states a setting of the engine; `why` is formatted with its {figure} and {wanted} value."""
        for attribute, wanted in wanted_of.items():
            if (reading := self.attempt.reading(attribute)) is not None:
                own_why = why.format(figure=reading.spec.name, wanted=wanted)
                yield self.finding(
                    reading, Check.STACK, ok=reading.value == wanted, predicted=wanted, why=own_why, remedy=remedy
                )

    def finding(self, reading: Reading, check: Check, *, ok: bool, **fields: object) -> Finding:
        """A finding about one reading."""
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
