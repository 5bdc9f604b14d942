"""The line formats found in a line, with what they say."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from loadcheck.figures import Reading
from loadcheck.logs.dialect import Dialect
from loadcheck.logs.formats import LineFormat

MAX_MATCHES = 10_000
"""In one line: far over what any load prints, so that hostile input cannot fill memory."""


@dataclass(frozen=True, slots=True)
class Match:
    """One line format found in a line.

    Attributes:
        position, end: where it stands in the text, in characters.
    """

    position: int
    end: int
    format: LineFormat
    readings: tuple[Reading, ...]


def find_matches(dialect: Dialect, line: int, text: str) -> list[Match]:
    """Every format found in a line, in the order in which they stand there."""
    found = []
    for format in dialect.formats:
        if format.anchor in text:
            for match in format.pattern.finditer(text):
                readings = tuple(_readings(format, match, line))
                # A line with a figure that is no figure is not that line: it counts as missing, not as seen.
                if len(readings) == len(format.captures):
                    found.append(Match(match.start(), match.end(), format, readings))
                if len(found) > MAX_MATCHES:
                    return found
    return sorted(found, key=lambda match: match.position)


def _readings(format: LineFormat, match: re.Match[str], line: int) -> Iterator[Reading]:
    for capture, text in zip(format.captures, match.groups(), strict=True):
        if len(text) > capture.longest:
            continue
        printed = max(len(text.partition(".")[2]), capture.least)
        decimals = printed + capture.shift if capture.decimals else None
        try:
            yield Reading(capture.attribute, capture.convert(text), decimals, line)
        except (ValueError, OverflowError):  # a number too long to be one
            continue
