"""What the parser must know of a stack's logs: its lines, its words for a failure, and how its lines begin."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from loadcheck.logs.event import Event, name_of
from loadcheck.logs.events import KINDS
from loadcheck.logs.formats import LineFormat

EndingWords = tuple[str, re.Pattern[str]]
"""(literal, pattern) of a message that ends a load; what the pattern matches is kept as the error."""


@dataclass(frozen=True)
class Dialect:
    """The lines of one stack, or of several together.

    Attributes:
        formats: names are unique among all stacks.
        endings: the engine's own messages that end a load, beside exceptions and process deaths.
        leads: literals that precede a figure at the beginning of a load's own lines.
        heads: regular expressions of other line beginnings, to rejoin wrapped lines (logs/wrapped.py).
        events: those of its own engine, beside those of logs/events.py.
    """

    formats: tuple[LineFormat, ...] = ()
    endings: tuple[EndingWords, ...] = ()
    leads: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()
    events: tuple[type[Event], ...] = ()

    @cached_property
    def by_name(self) -> dict[str, LineFormat]:
        return {format.name: format for format in self.formats}

    @cached_property
    def event_kinds(self) -> dict[str, type[Event]]:
        """The record of each event, by its name."""
        return KINDS | {name_of(kind): kind for kind in self.events}

    @cached_property
    def anchors(self) -> tuple[str, ...]:
        """Literals; every line that matches a format or an ending holds at least one of them."""
        return tuple({format.anchor: None for format in self.formats} | {literal: None for literal, _ in self.endings})

    @cached_property
    def dense_anchors(self) -> tuple[str, ...]:
        """The formats' anchors without blanks: lines that were wrapped anywhere still hold them."""
        return tuple({format.anchor.replace(" ", "") for format in self.formats})

    @cached_property
    def head(self) -> re.Pattern[str]:
        """How a line begins that does not continue the one before: a load's own line, a log record, a traceback or an exception."""
        own = "|".join((*self.heads, *map(re.escape, self.leads)))
        return re.compile(rf"\s{{0,4}}(?:{_RECORDS}{'|' + own if own else ''})")


_RECORDS = r"(?:DEBUG|INFO|WARNING|ERROR|CRITICAL)\b|Traceback|[\w.]+Error\b"


def merged(dialects: Iterable[Dialect]) -> Dialect:
    """All of them as one: a log is parsed before it is known which stack printed it."""
    each = tuple(dialects)
    return Dialect(
        formats=tuple(format for one in each for format in one.formats),
        endings=tuple(words for one in each for words in one.endings),
        leads=tuple(dict.fromkeys(lead for one in each for lead in one.leads)),
        heads=tuple(dict.fromkeys(head for one in each for head in one.heads)),
        events=tuple(kind for one in each for kind in one.events),
    )
