"""Builds attempts at a load from the lines of a log, fed one by one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from loadcheck.errors import BadInput, Problem
from loadcheck.figures import Reading, figure_specs
from loadcheck.logs.attempt import MAX_KEPT, Attempt
from loadcheck.logs.dialect import Dialect, EndingWords
from loadcheck.logs.endings import MAX_TEXT, EndingReader, Kind, LogError
from loadcheck.logs.event_lines import EVENT_ANCHOR, LoggedEvent, damaged_event, read_event, split_event
from loadcheck.logs.events import Done, Started
from loadcheck.logs.formats import LineFormat, Stage
from loadcheck.logs.matches import Match, find_matches
from loadcheck.logs.prefixes import Rank, Stamp, prefixes_of, rank_of, strip_prefixes
from loadcheck.logs.processes import Processes
from loadcheck.logs.reports import begins_as_a_load, is_of_earlier_run, is_report, is_reported
from loadcheck.logs.whole_run import inherit
from loadcheck.logs.wrapped import Crossing, with_crossing

MAX_ATTEMPTS = 1_000
"""A file with more loads than any log holds is refused rather than kept in memory."""
MATCHES_OF_A_LOG = 3
"""This many known lines make a file a log even if none begins as a load's line does: all on one line (pasted without its line breaks),
or in one attempt (behind unknown prefixes)."""
MAX_RECORD_CHARS = 8_000
"""How far back from a figure its line's prefix is searched: vLLM's line of its whole configuration has 1,500 to 5,000 characters."""

_BAR = re.compile(
    r"\d\d:\d\d(?:<[\d:?]{1,12})?, {1,9}[\d.?]{1,12}[A-Za-z]{0,12}/(?:s|it)(?:, [^\]\n]{0,99})?\] ?|"
    r"\.(?:json|safetensors|model|txt|jinja|bin): {1,4}\d{1,3}%",
    re.ASCII,
)
"""The end of tqdm's progress bars: `[00:23<00:10, 23.68s/it]`, `[00:47<00:00, 190MB/s]`, `[00:00<?, ?it/s, loss=0.5]`; in a notebook `tokenizer.json: 100%`."""


class AttemptBuilder:
    """Sorts what the lines hold into attempts."""

    def __init__(
        self,
        path: Path,
        dialect: Dialect,
        words: Sequence[EndingWords] = (),
        first: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        """Args:
        first: the number of the judged process in each kind of parallelism, where it is not 0.
        """
        self.dialect = dialect
        self.words = words
        self._path = path
        self._attempts: list[Attempt] = []
        self._is_log = False
        """Whether a line began as a load's or a failure's lines do. Prose has such words only within its sentences."""
        self._retrying = False
        """Whether the last load line announced a retry: until the new engine's first line, errors belong to the try before."""
        self._endings = EndingReader(dialect.endings)
        self._stamp = Stamp()
        self.processes = Processes(first)
        self._head_rank: Rank | None = None
        """The process that printed the line which the line that is read was wrapped off."""
        self._may_end = True
        """Whether the line that is read holds an anchor of logs/endings.py. Nine of ten lines of a load do not."""

    @property
    def has_figures(self) -> bool:
        """Whether a line of a load was read. If so, a failure's words are no longer needed to recognize a log."""
        return any(attempt.formats for attempt in self._attempts)

    @property
    def _num_errors(self) -> int:
        return sum(len(attempt.errors) for attempt in self._attempts)

    @property
    def needs_next_line(self) -> bool:
        return self._endings.needs_next_line

    def feed(
        self, line: int, text: str, crossing: Crossing | None = None, may_end: bool = True, head: str = ""
    ) -> None:
        """Read one line.

        Args:
            crossing: what the line says together with the lines after it that were wrapped off it.
            may_end: False if it holds none of the anchors of what ends a load, so that it need not be searched for that.
            head: the line that it was wrapped off, which names the process that printed both.
        """
        self._may_end = may_end
        self._head_rank = rank_of(prefixes_of(head)) if head else None
        if EVENT_ANCHOR in text and "\n" in text and crossing is None:
            for part in _parts(text):
                self._feed_part(line, part, None)
            return
        self._feed_part(line, text, crossing)

    def _feed_part(self, line: int, text: str, crossing: Crossing | None) -> None:
        if EVENT_ANCHOR in text:
            before, data, after = split_event(text)
            if data is not None:
                self._feed_text(line, before)
                self._feed_event(line, data)
                self._feed_text(line, after.lstrip(" "))
                return
            if not before and (damaged := damaged_event(line, text)) is not None:
                self._keep_event(damaged)
            text = before + "\n" + after  # not an event of ours, so ordinary text of the log
            num_errors = self._num_errors
            self._feed_text(line, text, crossing)
            if self._num_errors == num_errors:  # an error may also follow the last brace
                self._feed_error(line, after.rpartition("}")[2].strip())
            return
        self._feed_text(line, text, crossing)

    def _feed_text(self, line: int, text: str, crossing: Crossing | None = None) -> None:
        num_matches = 0
        matches = find_matches(self.dialect, line, text)
        for match in with_crossing(matches, crossing):
            rank = rank_of(_before(text, match)) or self._head_rank
            if rank is not None and match.format.stage is Stage.READY:
                self.processes.note_ready(rank, text, match.position)
            if rank is None or self.processes.is_judged(rank, match.format, self._attempts):
                self._feed_match(line, match)
                num_matches += 1
        num_errors = self._num_errors
        for piece in text.split("\n"):
            bare = strip_prefixes(self._stamp.strip(piece))
            self._is_log = self._is_log or num_matches >= MATCHES_OF_A_LOG or begins_as_a_load(self.dialect, bare)
            self._feed_error(line, bare)
        if self._may_end and self._num_errors == num_errors and not self._endings.needs_next_line:
            ends_at = 0 if crossing is None else crossing.ends_at
            self._feed_glued(line, text, max((match.end for match in matches), default=ends_at))

    def _feed_glued(self, line: int, text: str, end: int) -> None:
        """Read what follows a figure or a progress bar on its line: stdout and stderr share lines, and neither of the two ends its own.

        Args:
            end: where the last figure of the line ends; 0 if it has none.
        """
        bars = [bar.end() for bar in _BAR.finditer(text)]
        if rest := text[max(end, *bars[-1:], 0) :] if end or bars else "":
            self._feed_error(line, rest.partition("\n")[0].lstrip("."))

    @property
    def unread(self) -> Mapping[str, int]:
        """Where no process of number 0 printed a start, the lowest numbers of those that printed lines of one; else empty.

        A host of data parallelism has its own numbers (--data-parallel-rank, --data-parallel-start-rank), and its log none of the others. The
        workers within each of its engine cores begin at 0.
        """
        begun = any(attempt.stage > Stage.BANNER for attempt in self._attempts)
        return {} if begun else self.processes.lowest

    def finish(self) -> list[Attempt]:
        """The attempts, each with what was printed once for the whole run; empty if the file is not a log."""
        known = max((len(attempt.formats) for attempt in self._attempts), default=0)
        if not self._is_log and known < MATCHES_OF_A_LOG:
            return []
        for before, attempt in zip(self._attempts, self._attempts[1:], strict=False):
            inherit(self.dialect, attempt, before)
        for after, attempt in zip(self._attempts[::-1], self._attempts[-2::-1], strict=False):
            inherit(self.dialect, attempt, after)
        for attempt in self._attempts:
            attempt.errors = [error for error in attempt.errors if not is_of_earlier_run(error, attempt)]
        return self._attempts

    def _feed_match(self, line: int, match: Match) -> None:
        format = match.format
        if format.per_model and self._is_of_draft(format):
            self._attempts[-1].draft_formats.add(format.name)
            return
        attempt = self._attempt_for(format)
        if format.repeats and attempt.formats[format.name] and _says_nothing_new(match, attempt):
            return
        attempt.formats[format.name] += 1
        attempt.first_lines.setdefault(format.name, line)
        attempt.stage = max(attempt.stage, format.stage)
        if format.stage is Stage.READY:
            attempt.ready_line = line
        if format.stage > Stage.PLAN:
            self._retrying = False
        if len(attempt.readings) < MAX_KEPT:
            attempt.readings.extend(match.readings)

    def _is_of_draft(self, format: LineFormat) -> bool:
        """Whether a line is about the draft model: V0 loads it after the model itself, and captures its graphs after the model's
        (vllm/spec_decode/spec_decode_worker.py:325-328, 404-407 at 0.7.2). V1 prints no line for it.
        """
        attempt = self._attempts[-1] if self._attempts else Attempt()
        engine = attempt.reading("engine")
        first = attempt.formats[format.name] == 1 and format.name not in attempt.draft_formats
        return first and attempt.draft_model is not None and engine is not None and engine.value == "V0"

    def _attempt_for(self, format: LineFormat) -> Attempt:
        """The current attempt, or a new one if this line begins another load."""
        if not self._attempts:
            return self._begin()
        attempt = self._attempts[-1]
        if format.retries:
            self._retrying = True
            return self._begin()
        again = (
            format.stage <= Stage.ENGINE
            and attempt.formats[format.name]
            and (attempt.errors or format.stage is Stage.BANNER)
        )
        return self._begin() if format.opens and (format.stage < attempt.stage or again) else attempt

    def _begin(self) -> Attempt:
        if len(self._attempts) == MAX_ATTEMPTS:
            what = f"more than {MAX_ATTEMPTS} loads begin in this file"
            raise BadInput(Problem(str(self._path), what, "give the log of one load"))
        self._attempts.append(Attempt())
        return self._attempts[-1]

    def _feed_error(self, line: int, text: str) -> None:
        attempt = self._failing_attempt()
        stage = attempt.stage if attempt is not None and attempt.formats else None
        may_end = self._may_end or self._endings.needs_next_line
        error = self._endings.feed(line, text, stage) if may_end else None
        if error is None:
            self._feed_words(line, text)
            return
        self._is_log |= error.kind in (Kind.EXCEPTION, Kind.HEAD) or is_report(text, error)
        attempt = attempt or self._begin()
        if len(attempt.errors) < MAX_KEPT:
            attempt.errors.append(error)

    def _failing_attempt(self) -> Attempt | None:
        """The attempt that an error on this line belongs to: during a retry, until its engine prints a line, the one before."""
        if self._retrying and len(self._attempts) > 1:
            return self._attempts[-2]
        return self._attempts[-1] if self._attempts else None

    def _feed_words(self, line: int, text: str) -> None:
        """Record a known failure that begins a line where no load was read yet: enough to look for its cause."""
        if self.has_figures:
            return
        for literal, pattern in self.words:
            if literal in text and (match := pattern.search(text)) and is_reported(text, match):
                self._is_log = True
                attempt = self._attempts[-1] if self._attempts else self._begin()
                if len(attempt.errors) < MAX_KEPT:
                    attempt.errors.append(LogError(line, text.strip()[:MAX_TEXT]))
                return

    def _feed_event(self, line: int, data: dict[str, Any]) -> None:
        self._is_log = True
        logged = read_event(line, data, self.dialect.event_kinds)
        begins = isinstance(logged.event, Started) and any(
            attempt.last(Started) is not None for attempt in self._attempts[-1:]
        )
        attempt = self._keep_event(logged, begins)
        if attempt is None:
            return
        if isinstance(logged.event, Done) and attempt.ready_line is None:
            attempt.ready_line = line
        for attribute, spec in figure_specs().items():
            if attribute in data and spec.holds(value := data[attribute]):
                attempt.readings.append(Reading(spec.attribute, value, None, line))

    def _keep_event(self, logged: LoggedEvent, begins: bool = False) -> Attempt | None:
        """Append an event to its attempt and return that; None if the attempt is full."""
        attempt = self._begin() if begins or not self._attempts else self._attempts[-1]
        if len(attempt.events) >= MAX_KEPT:
            return None
        attempt.events.append(logged)
        return attempt


def _parts(text: str) -> list[str]:
    """The lines with an event, and what is between them, of a text that a collector or a notebook put on one line."""
    parts: list[str] = []
    joins = False
    for line in text.split("\n"):
        has_event = EVENT_ANCHOR in line
        if joins and not has_event:
            parts[-1] += "\n" + line
        else:
            parts.append(line)
        joins = not has_event
    return parts


def _before(text: str, match: Match) -> str:
    """The text before a match on its line, at most MAX_RECORD_CHARS."""
    far = max(match.position - MAX_RECORD_CHARS, 0)
    return text[max(text.rfind("\n", far, match.position) + 1, far) : match.position]


def _says_nothing_new(match: Match, attempt: Attempt) -> bool:
    """Whether the attempt has each of the match's figures, with the same value; a training's log has such a line for every step."""
    return not match.readings or _values(match.readings) <= _values(attempt.readings)


def _values(readings: Iterable[Reading]) -> set[tuple[str, Any]]:
    return {(reading.attribute, reading.value) for reading in readings}
