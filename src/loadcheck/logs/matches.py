"""The line formats found in a line, with their readings."""

from __future__ import annotations

import re
from bisect import bisect
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from loadcheck.figures import Reading
from loadcheck.logs.dialect import Dialect
from loadcheck.logs.formats import LineFormat

MAX_MATCHES = 10_000
"""Limit per line: far above what any load prints, so that hostile input cannot fill memory."""


@dataclass(frozen=True, slots=True)
class Match:
    """One line format found in a line.

    Attributes:
        position, end: where it is in the text, in characters.
    """

    position: int
    end: int
    format: LineFormat
    readings: tuple[Reading, ...]


def find_matches(dialect: Dialect, line: int, text: str) -> list[Match]:
    """Every format found in a line, in the order of their positions."""
    found = []
    for format in dialect.formats:
        if format.anchor in text:
            for match in _of_their_record(format, text, format.pattern.finditer(text)):
                readings = tuple(_readings(format, match, line))
                # A line whose figure cannot be read does not count as seen, so it is reported as missing.
                if len(readings) == len(format.captures):
                    found.append(Match(match.start(), match.end(), format, readings))
                if len(found) > MAX_MATCHES:
                    return found
    return sorted(found, key=lambda match: match.position)


def _of_their_record(format: LineFormat, text: str, matches: Iterator[re.Match[str]]) -> Iterator[re.Match[str]]:
    """The matches on the lines that hold the format's anchor, where the text is several lines that a collector or a notebook put on one.

    A part of a line is searched without its anchor, and may stand on another line that means something else. If no line has both, a window wrapped
    it between them, and every match counts.
    """
    if "\n" not in text:
        yield from matches
        return
    found = list(islice(matches, MAX_MATCHES + 1))
    breaks = _positions(text, "\n")
    anchored = {bisect(breaks, at) for at in _positions(text, format.anchor)}
    yield from [
        match for match in found if bisect(breaks, match.start()) in anchored or bisect(breaks, match.end()) in anchored
    ] or found


def _positions(text: str, words: str) -> list[int]:
    """Where the words are in the text."""
    found, at = [], text.find(words)
    while at >= 0:
        found.append(at)
        at = text.find(words, at + len(words))
    return found


def _readings(format: LineFormat, match: re.Match[str], line: int) -> Iterator[Reading]:
    for capture, text in zip(format.captures, match.groups(), strict=True):
        if len(text) > capture.longest:
            continue
        printed = max(len(text.partition(".")[2]), capture.least)
        decimals = printed + capture.shift if capture.decimals else None
        try:
            yield Reading(capture.attribute, capture.convert(text), decimals, line)
        except (ValueError, OverflowError):  # too long for a number
            continue
