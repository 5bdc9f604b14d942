"""The line formats found in a line, with their readings."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

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
            for match in format.pattern.finditer(text):
                readings = tuple(_readings(format, match, line))
                # A line whose figure cannot be read does not count as seen, so it is reported as missing.
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
        except (ValueError, OverflowError):  # too long for a number
            continue
