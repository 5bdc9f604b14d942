"""Lines that a page broke: a notebook, a terminal or a mailer wraps what is longer than its window, at the column or at blanks.

A line that begins as a load's lines do is a head; what follows it up to the next head may go on with it. The pieces are joined in each
way that a page may have broken them, and only what stands across a break is taken of that. So nothing of an unbroken log is read
otherwise: its lines are heads, or join to nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from loadcheck.logs.dialect import Dialect
from loadcheck.logs.event_lines import PREFIX
from loadcheck.logs.matches import Match, find_matches
from loadcheck.logs.prefixes import strip_prefixes

MAX_COLUMNS = 250
"""A longer line is no piece: no page is as wide."""
MAX_JOINED_CHARS = 10_000
"""Of one head and what goes on with it: vLLM's line of its whole configuration has 1,500 to 5,000."""
LONG_SHARE, AT_THE_COLUMN = 0.6, 0.38
"""Of the pieces that are at least 0.6 of the widest, those that are as wide as it: broken at the column 47 to 100 % of them, at blanks 2
to 27 % (both reference logs at 60 to 120 columns)."""
LEAST_PREFIX_CHARS = 6
"""Of a stamp that begins a line; a shorter one may be a number that a break left at the beginning."""
_MAY_BE_STAMPED = re.compile(r"[\d\[(>A-Z]|[\w.-]{1,128}\s{0,64}\|", re.ASCII)
"""The beginnings that logs/prefixes.py knows, roughly: what looks at each line of a log must be quick."""
_HYPHEN = re.compile(r"\w-$")


@dataclass(slots=True)
class Crossing:
    """What the breaks after one piece change: what begins in it and ends in a later one, and what it seemed to say without that."""

    found: list[Match] = field(default_factory=list)
    superseded: set[tuple[str, int]] = field(default_factory=set)
    """(format, position) of a match that ends at the break, where the whole one goes on."""


def read_across(dialect: Dialect, first_line: int, lines: Sequence[str]) -> dict[int, Crossing]:
    """What is read across breaks, by the index of the piece where it begins.

    Args:
        first_line: number of the first of `lines` in the log.
        lines: clean lines of a log, in order.
    """
    groups = list(_groups(dialect, lines))
    width, at_the_column = _layout([len(lines[at]) for group in groups for at in group[:-1]])
    crossings: dict[int, Crossing] = {}
    for group in filter(lambda group: _holds_an_anchor(dialect, lines, group), groups):
        reader = _GroupReader(dialect, first_line, group, [lines[at] for at in group], at_the_column)
        for joined in _joins(reader.pieces, width, at_the_column):
            reader.take(joined)
        crossings |= reader.crossings
    return crossings


def with_crossing(matches: list[Match], crossing: Crossing | None) -> list[Match]:
    """The matches of a piece, with those that go on in the next one in place of what they seemed to be."""
    if crossing is None:
        return matches
    kept = [match for match in matches if (match.format.name, match.position) not in crossing.superseded]
    return sorted([*kept, *crossing.found], key=lambda match: match.position)


def _groups(dialect: Dialect, lines: Sequence[str]) -> Iterator[range]:
    """The pieces of each head that something may go on with."""
    start, chars = None, 0
    for at, line in enumerate(lines):
        goes_on = start is not None and at > 0 and _is_piece(lines[at - 1]) and not is_head(dialect, line)
        if goes_on and (chars := chars + len(line)) <= MAX_JOINED_CHARS:
            continue
        if start is not None and at - start > 1:
            yield range(start, at)
        start, chars = (at, len(line)) if is_head(dialect, line) else (None, 0)
    if start is not None and len(lines) - start > 1:
        yield range(start, len(lines))


def _is_piece(line: str) -> bool:
    return 0 < len(line) <= MAX_COLUMNS and PREFIX + "{" not in line


def is_head(dialect: Dialect, line: str) -> bool:
    """Whether a line begins as a load's lines do, or with a stamp of whoever wrote it down."""
    if dialect.head.match(line) is not None:
        return True
    if _MAY_BE_STAMPED.match(line) is None:
        return False
    bare = strip_prefixes(line)
    return len(line) - len(bare) >= LEAST_PREFIX_CHARS or dialect.head.match(bare) is not None


def _layout(lengths: list[int]) -> tuple[int, bool]:
    """The width of the page, and whether it breaks at the column: then most pieces are as wide as it."""
    width = max(lengths, default=0)
    long = [length for length in lengths if length >= LONG_SHARE * width]
    return width, long.count(width) >= AT_THE_COLUMN * len(long) > 0


@dataclass(frozen=True, slots=True)
class _Joined:
    """Pieces as one text, and where in it each begins and how much of its beginning was left out."""

    text: str
    starts: tuple[int, ...]
    cuts: tuple[int, ...]

    def piece_at(self, position: int) -> int:
        return max(number for number, start in enumerate(self.starts) if start <= position)


def _joins(pieces: Sequence[str], width: int, at_the_column: bool) -> Iterator[_Joined]:
    """The pieces as one line, in the ways that they may have been broken, the likeliest first.

    At the column nothing is lost, but for blanks at the end. At blanks one is, except after a hyphen, where a page may break too, and within a
    word that is wider than the page.
    """
    column = _joined(pieces, [""] * len(pieces))
    padded = _joined([piece.ljust(width) for piece in pieces], [""] * len(pieces))
    blanks = [("" if _HYPHEN.search(piece) else " ") for piece in pieces]
    words = [
        "" if _is_within_a_word(piece, after, width) else blank
        for piece, after, blank in zip(pieces, [*pieces[1:], ""], blanks, strict=True)
    ]
    trimmed = [piece.strip() for piece in pieces]
    at_blanks = (_joined(pieces, words, trimmed), _joined(pieces, blanks, trimmed))
    ways = (column, padded, at_blanks[1]) if at_the_column else (*at_blanks, column)
    seen: set[str] = set()
    for way in ways:
        if way.text not in seen:
            seen.add(way.text)
            yield way


def _is_within_a_word(piece: str, after: str, width: int) -> bool:
    """Whether a page that breaks at blanks broke here because there is none for a whole line."""
    last, first = piece.rsplit(" ", 1)[-1], after.lstrip().split(" ", 1)[0]
    return len(piece) >= width and len(last) + len(first) > width


def _joined(pieces: Sequence[str], seams: Sequence[str], trimmed: Sequence[str] | None = None) -> _Joined:
    shown = pieces if trimmed is None else trimmed
    starts, text = [], ""
    for piece, seam in zip(shown, seams, strict=True):
        starts.append(len(text))
        text += piece + seam
    cuts = tuple(0 if trimmed is None else len(piece) - len(piece.lstrip()) for piece in pieces)
    return _Joined(text, tuple(starts), cuts)


def _holds_an_anchor(dialect: Dialect, lines: Sequence[str], group: range) -> bool:
    """Whether the pieces can hold a line format at all, however they are joined."""
    dense = "".join(lines[group.start : group.stop]).replace(" ", "")
    return any(anchor in dense for anchor in dialect.dense_anchors)


class _GroupReader:
    """Takes of each way of joining one head's pieces what no earlier way has shown."""

    def __init__(self, dialect: Dialect, first_line: int, group: range, pieces: list[str], at_the_column: bool) -> None:
        self.pieces = pieces
        self.crossings: dict[int, Crossing] = {}
        self._at_the_column = at_the_column
        self._first_line = first_line
        self._group = group
        self._dialect = dialect
        self._alone = [find_matches(dialect, first_line + at, piece) for at, piece in zip(group, pieces, strict=True)]
        self._shown: set[str] = set()

    def take(self, joined: _Joined) -> None:
        """Add to `crossings` what this way of joining shows across a break."""
        shown = [
            match.format.name for match in find_matches(self._dialect, 0, joined.text) if self._is_taken(joined, match)
        ]
        self._shown |= set(shown)

    def _is_taken(self, joined: _Joined, match: Match) -> bool:
        first, last = joined.piece_at(match.position), joined.piece_at(match.end - 1)
        position = match.position - joined.starts[first] + joined.cuts[first]
        within = position + match.end - match.position <= len(self.pieces[first])
        if match.format.name in self._shown or (within and match.format.anchor in self.pieces[first]):
            return False
        before = [each for piece in self._alone[first : last + 1] for each in piece if each.format is match.format]
        cut_short = [each for each in before if each in self._alone[first] and each.position == position]
        if before and not (self._at_the_column and cut_short == before):
            return False
        crossing = self.crossings.setdefault(self._group[first], Crossing())
        crossing.superseded |= {(each.format.name, each.position) for each in cut_short}
        crossing.found.append(_at(match, position, self._first_line + self._group[first]))
        return True


def _at(match: Match, position: int, line: int) -> Match:
    readings = tuple(replace(reading, line=line) for reading in match.readings)
    return Match(position, position + match.end - match.position, match.format, readings)
