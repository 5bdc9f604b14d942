"""A parsed log: attempts at a load, each with its figures, its events and its outcome."""

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
from loadcheck.logs.event_lines import LoggedEvent
from loadcheck.logs.formats import Stage

MAX_KEPT = 10_000
"""Limit on the readings, errors and events kept per attempt: far above what any load prints, so that hostile input cannot fill memory."""
_NO_DRAFT = ("[ngram]", "None")
"""What vLLM prints where tokens are drafted without a model (SpeculativeConfig.__repr__: vllm/config.py at 0.7.2, config/speculative.py later)."""


class Outcome(Enum):
    """How an attempt ended, by its log alone."""

    COMPLETED = "completed"
    FAILED = "failed"
    PARTIAL = "partial"


@dataclass(slots=True)
class Attempt:
    """One try at a load: what it printed, where, and how it ended.

    Attributes:
        readings: every figure as it was read, in order; a figure that several lines print has several readings.
        formats: how often each line format was seen.
        first_lines: by format, the number of the line where it was seen first.
        events: the events of our own engine, in order.
        other_ranks: of a tensor-parallel load, the processes whose lines are ignored in favour of the first one's.
        draft_formats: the formats of the lines that were ignored because they are about the draft model.
        unready_cores: with data parallelism, the engine cores that the log's server started and whose start the log does not show to its end: the
            rank of each or, of Ray's, "of process 7".
    """

    readings: list[Reading] = field(default_factory=list)
    formats: Counter[str] = field(default_factory=Counter)
    first_lines: dict[str, int] = field(default_factory=dict)
    events: list[LoggedEvent] = field(default_factory=list)
    errors: list[LogError] = field(default_factory=list)
    stage: Stage = Stage.BANNER
    ready_line: int | None = None
    other_ranks: set[str] = field(default_factory=set)
    draft_formats: set[str] = field(default_factory=set)
    unready_cores: tuple[str, ...] = ()
    _best: dict[str, Reading] = field(default_factory=dict, init=False, repr=False, compare=False)
    _num_indexed: int = field(default=0, init=False, repr=False, compare=False)

    @property
    def outcome(self) -> Outcome:
        if self.errors:
            return Outcome.FAILED
        return Outcome.PARTIAL if self.ready_line is None else Outcome.COMPLETED

    @property
    def error(self) -> LogError | None:
        """The error to blame (endings.cause_of); None if there is none."""
        return cause_of(self.errors)

    @property
    def draft_model(self) -> str | None:
        """The model that drafts the tokens of an engine which decodes speculatively; None for other engines, and where no model drafts."""
        reading = self.reading("draft_model")
        return None if reading is None or reading.value in _NO_DRAFT else str(reading.value)

    @property
    def death(self) -> LogError | None:
        """The last report that a process died; None if the log has none."""
        return next((error for error in reversed(self.errors) if error.kind is Kind.DEATH), None)

    @property
    def figures(self) -> Figures:
        """The most precise reading of each figure."""
        known: dict[str, Any] = {}
        for attribute in figure_specs():
            if (reading := self.reading(attribute)) is not None:
                known[attribute] = reading.value
        return Figures(**known)

    def reading(self, attribute: str) -> Reading | None:
        """The most precise reading of a figure; None if no line prints it. Indexed, as one verdict asks hundreds of times."""
        for reading in self.readings[self._num_indexed :]:
            known = self._best.setdefault(reading.attribute, reading)
            if reading.tolerance < known.tolerance:
                self._best[reading.attribute] = reading
        self._num_indexed = len(self.readings)
        return self._best.get(attribute)

    def readings_of(self, attribute: str) -> list[Reading]:
        """Every reading of one figure, in order."""
        return [reading for reading in self.readings if reading.attribute == attribute]

    def last(self, event_type: type[EventT]) -> EventT | None:
        """The last event of this type; None if there is none."""
        return next((logged.event for logged in reversed(self.events) if isinstance(logged.event, event_type)), None)

    def all(self, event_type: type[EventT]) -> list[EventT]:
        """Every event of this type, in order."""
        return [logged.event for logged in self.events if isinstance(logged.event, event_type)]


@dataclass(frozen=True, slots=True)
class ParsedLog:
    """A log as attempts; the last one counts.

    Attributes:
        dialect: the lines that it was parsed with.
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
