"""Tells a model's answer that is printed among a log's lines from what ended the load: an answer may read "ValueError: bad".

Only the log's own events say what the answer was. Its text must stand in the log whole, line by line, after the model was loaded. Where no
event says it, a line that reads like a failure counts as one; so do reports of a death, which others print at the end of a log.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from loadcheck.logs.attempt import Attempt
from loadcheck.logs.endings import Kind, LogError
from loadcheck.logs.events import Answer, Answered, AnsweredAfterTraining, Loaded, WeightsLoaded
from loadcheck.logs.prefixes import strip_prefixes
from loadcheck.logs.text import read_lines

MAX_LINES, MAX_ERRORS = 1_000, 1_000
"""Longer answers, and attempts with more failures, are not looked at: far more than a load prints."""


def drop_answers(path: Path, attempts: Sequence[Attempt]) -> None:
    """Remove the errors of each attempt that are lines of an answer of it."""
    for attempt in attempts:
        answers = [*_answers(attempt)]
        loaded = _loaded_line(attempt)
        errors = [error for error in attempt.errors if error.line > loaded and _may_be_spoken(error)]
        if answers and 0 < len(errors) <= MAX_ERRORS:
            spoken = _spoken_lines(path, answers, errors)
            attempt.errors = [*_unspoken(attempt.errors, spoken)] if spoken else attempt.errors


def _answers(attempt: Attempt) -> Iterator[list[str]]:
    """The lines of each answer that is judged."""
    kinds: tuple[type[Answer], ...] = (Answered, AnsweredAfterTraining)
    for event in filter(None, map(attempt.last, kinds)):
        lines = [line.strip() for line in (event.text or "").strip().split("\n")]
        if any(lines) and len(lines) <= MAX_LINES:
            yield lines


def _loaded_line(attempt: Attempt) -> float:
    """The line of the event of the loaded model; infinite without one."""
    loaded = (logged.line for logged in attempt.events if isinstance(logged.event, Loaded | WeightsLoaded))
    return min(loaded, default=float("inf"))


def _may_be_spoken(error: LogError) -> bool:
    return error.kind in (Kind.EXCEPTION, Kind.HEAD) and not error.is_interruption


def _spoken_lines(path: Path, answers: Sequence[list[str]], errors: Sequence[LogError]) -> set[int]:
    """The numbers of the log's lines in which an answer stands whole, where one of its lines is an error's."""
    longest = max(map(len, answers))
    near = {error.line + offset for error in errors for offset in range(-longest, longest + 1)}
    bare = {number: strip_prefixes(line).strip() for number, line in read_lines(path, near).items()}
    spoken: set[int] = set()
    for answer in answers:
        places = {
            error.line - place
            for error in errors
            for place, words in enumerate(answer)
            if bare.get(error.line) == words
        }
        spoken.update(
            line for first in places if _stands_at(bare, first, answer) for line in range(first, first + len(answer))
        )
    return spoken


def _stands_at(bare: Mapping[int, str], first: int, answer: Sequence[str]) -> bool:
    """Whether the answer is printed from this line on. Other words may come before it on its first line."""
    begins = bare.get(first, "").endswith(answer[0])
    return begins and all(bare.get(first + place) == words for place, words in enumerate(answer) if place)


def _unspoken(errors: Sequence[LogError], spoken: set[int]) -> Iterator[LogError]:
    """The errors that are no lines of an answer. An exception with a traceback is one only if the traceback is, too."""
    head = None
    for error in errors:
        head = error.line if error.kind is Kind.HEAD else head
        whole = not error.frames or head in spoken
        if error.line not in spoken or not whole or not _may_be_spoken(error):
            yield error
