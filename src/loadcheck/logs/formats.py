"""What a line format is, and the helpers with which the stacks define theirs (the `dialect` of each stack).

A format is searched for anywhere in a line, as progress bars, prefixes and one-line pastes put other text before and after it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
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


# Printed once for the whole run, so these lines belong to every attempt of it.
RUN_STAGES = frozenset({Stage.BANNER, Stage.PLAN, Stage.ADAPTERS})


@dataclass(frozen=True, slots=True)
class Capture:
    """How one group of a format's pattern is read: as which figure, converted how, and with which precision.

    Attributes:
        decimals: whether to count the printed decimals (the value stands for an interval); False if the value is exact.
        shift: added to the number of decimals, if the log prints the figure in another unit.
        least: the minimum number of decimals, if the engine rounds to so many and drops trailing zeros (vLLM's V1: round(x, 2)).
        longest: the most characters that a group may have to be read as the figure; no log prints a number of more than 20.
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
        source: the upstream file and line that print it.
        stage: where in a load it is printed.
        anchor: a literal that every such line holds; lines without any anchor are skipped.
        captures: one per group of the pattern, in order.
        opens: whether it begins a new attempt if the current one is already past its stage.
        repeats: a progress bar, which is printed many times; any other line that appears twice in one attempt is a finding.
        retries: whether it begins another try within one run: until its engine prints a line, errors belong to the try before.
        per_model: whether an engine that decodes speculatively prints it a second time, for its draft model.
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
    per_model: bool = False


WHOLE = r"(?![\d.,]*\d|[eE][+-]?\d)"
"""What must follow a number: if more digits do, it is another number."""
NUMBER = rf"(-?\d{{1,20}}(?:\.\d{{1,20}})?){WHOLE}"
"""As Python's round() or %.2f prints it."""
COUNT = rf"(\d{{1,3}}(?:,\d{{3}}){{1,6}}|\d{{1,20}}){WHOLE}"
"""A count; thousands separators, if any, at every third digit."""
DIGITS = rf"(\d{{1,20}}){WHOLE}"
"""A count without separators."""


def memory(attribute: str) -> Capture:
    """GiB, which these logs call GB."""
    return Capture(attribute, _gib, decimals=True)


def rounded(attribute: str) -> Capture:
    """GiB as printed by Python's round(x, 2), so 5.6 is 5.60 ± 0.005."""
    return Capture(attribute, _gib, decimals=True, least=2)


def number(attribute: str) -> Capture:
    return Capture(attribute, float, decimals=True)


def share(attribute: str, least: int = 0) -> Capture:
    """A fraction of 1, kept in percent."""
    return Capture(attribute, _percent, decimals=True, shift=-2, least=least)


def exact(attribute: str) -> Capture:
    """A whole number, with or without separators."""
    return Capture(attribute, _count)


def text(attribute: str, longest: int = 4096) -> Capture:
    return Capture(attribute, str, longest=longest)


def line(name: str, source: str, stage: Stage, anchor: str, pattern: str, *captures: Capture) -> LineFormat:
    """A line that begins its stage."""
    return LineFormat(name, source, stage, anchor, re.compile(pattern, re.ASCII), captures)


def of_model(name: str, source: str, stage: Stage, anchor: str, pattern: str, *captures: Capture) -> LineFormat:
    """A line that begins its stage, and that is printed for a draft model, too."""
    return replace(line(name, source, stage, anchor, pattern, *captures), per_model=True)


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
