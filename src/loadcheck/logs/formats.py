"""What a line format is, and the words that stacks write theirs with (`dialect` of each stack).

A format is searched for anywhere in a line, as progress bars, prefixes and one-line pastes put anything before and after it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

from loadcheck.figures import Value
from loadcheck.units import GIB


class Stage(IntEnum):
    """How far a load has come, in the order of its log. A line of an earlier stage begins a new attempt."""

    BANNER = 1
    PLAN = 2
    ENGINE = 3
    LOADING = 4
    WEIGHTS = 5
    PROFILE = 6
    PROFILED = 7
    BLOCKS = 8
    CAPTURE = 9
    READY = 10
    ADAPTERS = 11
    TRAINING = 12


# Printed once for the whole run, so it belongs to every attempt of it.
RUN_STAGES = frozenset({Stage.BANNER, Stage.PLAN, Stage.ADAPTERS})


@dataclass(frozen=True, slots=True)
class Capture:
    """What one group of a format's pattern says: which figure, how to read it, and with which precision.

    Attributes:
        decimals: count the printed decimals (the value stands for an interval); False where the value is exact.
        longest: characters that a group may have to be taken for the figure; no log prints a number of more than 20.
        least: decimals at least, where the engine rounds to so many and prints no trailing zeros (vLLM's V1: round(x, 2)).
        shift: added to the count of decimals, where the log prints the figure in another unit.
    """

    attribute: str
    convert: Callable[[str], Value]
    decimals: bool = False
    shift: int = 0
    least: int = 0
    longest: int = 20


@dataclass(frozen=True, slots=True)
class LineFormat:
    """One line format.

    Attributes:
        anchor: a literal that every such line holds; lines without any anchor are not looked at.
        stage: where in a load it stands.
        opens: whether it begins a new attempt when the present one is already past its stage.
        repeats: a progress bar, which is printed many times; otherwise a second time in one attempt is a finding.
        retries: whether it begins another try of one run: until its engine speaks, errors are those of the try before.
        captures: one per group of the pattern, in order.
    """

    name: str
    source: str
    stage: Stage
    anchor: str
    pattern: re.Pattern[str]
    captures: tuple[Capture, ...]
    opens: bool = True
    repeats: bool = False
    retries: bool = False


WHOLE = r"(?![\d.,]*\d|[eE][+-]?\d)"
"""Behind a number: one that goes on is another number."""
NUMBER = rf"(-?\d{{1,20}}(?:\.\d{{1,20}})?){WHOLE}"
"""As Python's round() or %.2f prints it."""
COUNT = rf"(\d{{1,3}}(?:,\d{{3}}){{1,6}}|\d{{1,20}}){WHOLE}"
"""With separators, where they are printed, at every third digit."""
DIGITS = rf"(\d{{1,20}}){WHOLE}"
"""Without separators."""


def memory(attribute: str) -> Capture:
    """GiB, which these logs call GB."""
    return Capture(attribute, _gib, decimals=True)


def rounded(attribute: str) -> Capture:
    """GiB as Python's round(x, 2) prints them, so 5.6 is 5.60 ± 0.005."""
    return Capture(attribute, _gib, decimals=True, least=2)


def number(attribute: str) -> Capture:
    return Capture(attribute, float, decimals=True)


def share(attribute: str, least: int = 0) -> Capture:
    """A share of 1, kept in percent."""
    return Capture(attribute, _percent, decimals=True, shift=-2, least=least)


def exact(attribute: str) -> Capture:
    """A whole number, with or without separators."""
    return Capture(attribute, _count)


def text(attribute: str, longest: int = 4096) -> Capture:
    return Capture(attribute, str, longest=longest)


def line(name: str, source: str, stage: Stage, anchor: str, pattern: str, *captures: Capture) -> LineFormat:
    """A line that begins its stage."""
    return LineFormat(name, source, stage, anchor, re.compile(pattern, re.ASCII), captures)


def part(name: str, source: str, stage: Stage, anchor: str, pattern: str, *captures: Capture) -> LineFormat:
    """A further line of a stage that another line has begun."""
    return LineFormat(name, source, stage, anchor, re.compile(pattern, re.ASCII), captures, opens=False)


def repeated(name: str, source: str, stage: Stage, anchor: str, pattern: str, *captures: Capture) -> LineFormat:
    """A further line that may be printed many times."""
    return LineFormat(name, source, stage, anchor, re.compile(pattern, re.ASCII), captures, opens=False, repeats=True)


def _gib(text: str) -> Value:
    return round(float(text) * GIB)


def _count(text: str) -> Value:
    return int(text.replace(",", ""))


def _percent(text: str) -> Value:
    return 100 * float(text)
