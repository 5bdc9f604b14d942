"""Parses a raw log of one load or several into attempts."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import accumulate
from pathlib import Path

from loadcheck.errors import BadInput, Problem
from loadcheck.logs.answers import drop_answers
from loadcheck.logs.attempt import ParsedLog
from loadcheck.logs.builder import AttemptBuilder
from loadcheck.logs.dialect import Dialect, EndingWords
from loadcheck.logs.endings import ANCHORS as ENDING_ANCHORS
from loadcheck.logs.event_lines import EVENT_ANCHOR
from loadcheck.logs.hosts import unready_cores
from loadcheck.logs.prefixes import ACTOR, CORE, NAMED
from loadcheck.logs.programs import program_kind
from loadcheck.logs.signal_words import translated
from loadcheck.logs.text import clean_line, read_blocks
from loadcheck.logs.wrapped import find_crossings, find_heads, join_events

MAX_BINARY_BLOCKS = 1_000
"""About a gigabyte of binary data without a line of a load is refused, as a device may never end."""


def parse_log(path: Path, dialect: Dialect, words: Sequence[EndingWords] = ()) -> ParsedLog:
    """Parse a log. BadInput if the file is not one; program text is not, nor is prose that quotes a log within its sentences.

    Args:
        words: failure messages of the engines; a line that begins with one makes the file a log even without figures.
    """
    if (kind := program_kind(path)) is not None:
        raise BadInput(
            Problem(str(path), f"is {kind}, and no log", "run it, and give what it prints, stdout and stderr")
        )
    builder = AttemptBuilder(path, dialect, words)
    _feed_lines(path, builder)
    first = builder.unread
    if first:
        builder = AttemptBuilder(path, dialect, words, first)
        _feed_lines(path, builder)
    attempts = builder.finish()
    if not attempts:
        raise BadInput(
            Problem(
                str(path), "not a load log: no line of a load log in it", "give the output of a load, stdout and stderr"
            )
        )
    drop_answers(path, attempts)
    processes = builder.processes
    if CORE in first or attempts[-1].other_ranks or processes.has_actors:
        judged = first.get(CORE, 0)
        attempts[-1].unready_cores = unready_cores(path, judged, processes.ready_cores, processes.ready_actors)
    return ParsedLog(path, tuple(attempts), dialect)


def _feed_lines(path: Path, builder: AttemptBuilder) -> None:
    """Feed the lines that hold an anchor, and those that the builder waits for; blocks with neither are skipped whole.

    BadInput for a binary file. NUL bytes alone do not make a file binary, as a load may print anything among its lines.
    """
    num_binary, any_line, processes = 0, False, builder.processes
    endings = frozenset({*ENDING_ANCHORS, *(literal for literal, _ in builder.dialect.endings)})
    known = frozenset({*builder.dialect.anchors, *endings, EVENT_ANCHOR})
    literals = {literal for literal, _ in builder.words}
    for first_line, block in read_blocks(path):
        processes.has_actors = processes.has_actors or ACTOR in block
        anchors = _shortest(known if builder.has_figures else known | literals)
        present = {anchor for anchor in anchors if anchor in block}
        words = {*translated().findall(block)}
        if not present and not words and not builder.needs_next_line:
            num_binary += "\0" in block
            if num_binary > MAX_BINARY_BLOCKS and not any_line:
                break
            continue
        any_line = any_line or bool(present or words)
        of_endings = present & _of_endings(anchors, endings)
        _feed_block(first_line, block, present - of_endings, of_endings | words, builder)
    if num_binary and not any_line:
        raise BadInput(Problem(str(path), "a binary file, not a log", "give the text that the load printed"))


@cache
def _shortest(anchors: frozenset[str]) -> tuple[str, ...]:
    """The anchors without those that contain another one: a line with the longer one contains the shorter one, too."""
    kept: list[str] = []
    for anchor in sorted(anchors, key=lambda each: (len(each), each)):
        if not any(other in anchor for other in kept):
            kept.append(anchor)
    return tuple(kept)


@cache
def _of_endings(anchors: tuple[str, ...], endings: frozenset[str]) -> frozenset[str]:
    """The anchors of lines that may end a load; a shorter anchor stands for the longer ones that contain it."""
    return frozenset(anchor for anchor in anchors if any(anchor in ending for ending in endings))


def _feed_block(first_line: int, block: str, present: set[str], of_endings: set[str], builder: AttemptBuilder) -> None:
    """Feed the lines of a block that hold an anchor, with the matches that wrapping split between them and the lines after them."""
    raw = block.split("\n")
    starts = list(accumulate((len(line) + 1 for line in raw), initial=0))
    may_end = _lines_with(of_endings, block, starts)
    anchored = may_end | _lines_with(present, block, starts)
    lines = [clean_line(line) for line in raw]
    if EVENT_ANCHOR in block:
        lines = join_events(lines)
    crossings = find_crossings(builder.dialect, first_line, lines)
    heads = find_heads(lines) if NAMED in block else {}
    for offset, line in enumerate(lines):
        if builder.needs_next_line or offset in crossings or offset in anchored:
            head = lines[heads[offset]] if offset in heads else ""
            builder.feed(first_line + offset, line, crossings.get(offset), offset in may_end, head)


def _lines_with(anchors: Iterable[str], block: str, starts: Sequence[int]) -> set[int]:
    """The lines of a block, counted from 0, that hold any of the anchors; `starts` are where its lines begin, and its end."""
    found: set[int] = set()
    for anchor in anchors:
        at = block.find(anchor)
        while at >= 0:
            after = bisect_right(starts, at)
            found.add(after - 1)
            at = block.find(anchor, starts[after])
    return found
