"""What a log is once it is read: attempts at a load, each with its figures, its events and its end."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from loadcheck.figures import Figures, Reading, figure_specs
from loadcheck.logs.dialect import Dialect
from loadcheck.logs.endings import Kind, LogError, cause_of
from loadcheck.logs.event import EventT
from loadcheck.logs.event_lines import Said
from loadcheck.logs.formats import Stage

MAX_KEPT = 10_000
"""Readings, errors or events kept of one attempt: far over what any load prints, so that hostile input cannot fill memory."""


class Outcome(Enum):
    """How far an attempt came, by its log alone."""

    COMPLETED = "completed"
    FAILED = "failed"
    PARTIAL = "partial"


@dataclass(slots=True)
class Attempt:
    """One try at a load: what it said, where, and how it ended.

    Attributes:
        readings: every figure as it was read, in order; a figure that several lines say has several.
        formats: how often each line format was seen.
        events: what our own engine said, in order.
    """

    readings: list[Reading] = field(default_factory=list)
    formats: Counter[str] = field(default_factory=Counter)
    first_lines: dict[str, int] = field(default_factory=dict)
    events: list[Said] = field(default_factory=list)
    errors: list[LogError] = field(default_factory=list)
    stage: Stage = Stage.BANNER
    ready_line: int | None = None
    other_ranks: set[str] = field(default_factory=set)
    """Of a tensor-parallel load: the processes beside the one whose lines are read."""
    _best: dict[str, Reading] = field(default_factory=dict, init=False, repr=False, compare=False)
    _num_looked_at: int = field(default=0, init=False, repr=False, compare=False)

    @property
    def outcome(self) -> Outcome:
        if self.errors:
            return Outcome.FAILED
        return Outcome.PARTIAL if self.ready_line is None else Outcome.COMPLETED

    @property
    def error(self) -> LogError | None:
        """What to blame: see endings.cause_of; None where there is no error."""
        return cause_of(self.errors)

    @property
    def death(self) -> LogError | None:
        """How the process died, the last word on it; None where the log does not say that it did."""
        return next((error for error in reversed(self.errors) if error.kind is Kind.DEATH), None)

    @property
    def figures(self) -> Figures:
        """Each figure by its most precise reading."""
        known: dict[str, Any] = {}
        for attribute in figure_specs():
            if (reading := self.reading(attribute)) is not None:
                known[attribute] = reading.value
        return Figures(**known)

    def reading(self, attribute: str) -> Reading | None:
        """Its most precise reading; None where no line says it. A verdict asks hundreds of times, so what was looked at is kept."""
        for reading in self.readings[self._num_looked_at :]:
            known = self._best.setdefault(reading.attribute, reading)
            if reading.tolerance < known.tolerance:
                self._best[reading.attribute] = reading
        self._num_looked_at = len(self.readings)
        return self._best.get(attribute)

    def readings_of(self, attribute: str) -> list[Reading]:
        """Every reading of one figure, in order."""
        return [reading for reading in self.readings if reading.attribute == attribute]

    def last(self, kind: type[EventT]) -> EventT | None:
        """The last event of this kind; None where there is none."""
        return next((said.event for said in reversed(self.events) if isinstance(said.event, kind)), None)

    def all(self, kind: type[EventT]) -> list[EventT]:
        """Every event of this kind, in order."""
        return [said.event for said in self.events if isinstance(said.event, kind)]


@dataclass(frozen=True, slots=True)
class ParsedLog:
    """A log as attempts; the last one counts.

    Attributes:
        dialect: what it was read by.
    """

    path: Path
    attempts: tuple[Attempt, ...]
    dialect: Dialect

    @property
    def last(self) -> Attempt:
        return self.attempts[-1]

    @property
    def outcome(self) -> Outcome:
        return self.last.outcome

    def to_json(self) -> dict[str, Any]:
        return {
            "outcome": self.outcome.value,
            "attempts": [
                {
                    "figures": attempt.figures.to_json(),
                    "outcome": attempt.outcome.value,
                    "errors": [{"line": error.line, "text": error.text} for error in attempt.errors],
                    "ended_by": None
                    if attempt.death is None
                    else {"line": attempt.death.line, "signal": attempt.death.signal},
                }
                for attempt in self.attempts
            ],
            "figures": self.last.figures.to_json(),
        }
