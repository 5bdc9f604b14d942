"""Rejoins wrapped lines: a notebook, a terminal or a mailer wraps what is longer than its window, at a fixed column or at blanks.

A line that begins as a load's lines do is a head; the lines up to the next head may be its wrapped pieces. The pieces are joined in each
way that they may have been wrapped, and only matches that cross a break are added. So an unwrapped log is read as before: its lines are
heads, or join to nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from loadcheck.logs.dialect import Dialect
from loadcheck.logs.event_lines import EVENT_ANCHOR, PREFIX, split_event
from loadcheck.logs.matches import Match, find_matches
from loadcheck.logs.prefixes import prefixes_of, strip_prefixes

MAX_COLUMNS = 250
"""A longer line is not a wrapped piece: no window is as wide."""
MAX_JOINED_CHARS = 10_000
"""Of one head with its pieces: vLLM's line of its whole configuration has 1,500 to 5,000."""
MAX_PIECES = 100
"""Of an event of ours: the one of all versions has some 1,000 characters."""
LONG_SHARE, AT_THE_COLUMN = 0.6, 0.38
"""Of the pieces that are at least 0.6 as long as the longest, the share that are exactly as long: 47 to 100 % if wrapped at a column, 2 to 27 %
if wrapped at blanks (both reference logs at 60 to 120 columns)."""
LEAST_PREFIX_CHARS = 6
"""Of a prefix that marks a head; a shorter one may be a number that wrapping left at the beginning."""
_MAY_HAVE_PREFIX = re.compile(r"[\d\[(>A-Z]|[\w.-]{1,128}\s{0,64}\|", re.ASCII)
"""The beginnings that logs/prefixes.py knows, roughly: a quick test, as it runs on every line of a log."""
_PLACE = re.compile(r"\[[\w./-]{1,128}\.py:\d+\] ", re.ASCII)
"""How a record of vLLM's goes on whose level and time were left on the line before."""
_HYPHEN = re.compile(r"\w-$")


@dataclass(slots=True)
class Crossing:
    """What joining a piece with the next ones changes.

    Attributes:
        found: matches that begin in the piece and end in a later one.
        superseded: (format, position) of the piece's own matches that the break cut short.
        ends_at: where the last match ends that began in an earlier piece; 0 if there is none.
    """

    found: list[Match] = field(default_factory=list)
    superseded: set[tuple[str, int]] = field(default_factory=set)
    ends_at: int = 0


def find_crossings(dialect: Dialect, first_line: int, lines: Sequence[str]) -> dict[int, Crossing]:
    """The matches that cross a break, by the index of the piece where they begin.

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


def join_events(lines: Sequence[str]) -> list[str]:
    """The lines with each event of ours that a window wrapped on its first one; its other pieces become empty, so that numbers stay the same."""
    joined = list(lines)
    width = max((len(line) for line in lines if len(line) <= MAX_COLUMNS and "\n" not in line), default=0)
    for at, line in enumerate(lines):
        if EVENT_ANCHOR in line and len(line) <= MAX_COLUMNS and split_event(line)[1] is None:
            pieces = lines[at : at + MAX_PIECES]
            seams = ("", " ") if len(line) == width else (" ", "")
            whole = next((text for seam in seams if (text := _whole_event(pieces, seam)) is not None), None)
            if whole is not None:
                joined[at], num_pieces = whole
                joined[at + 1 : at + num_pieces] = [""] * (num_pieces - 1)
    return joined


def _whole_event(pieces: Sequence[str], seam: str) -> tuple[str, int] | None:
    """The first pieces that are an event when joined, and how many they are."""
    text = pieces[0]
    for number, piece in enumerate(pieces[1:], 2):
        if EVENT_ANCHOR in piece or len(text) > MAX_JOINED_CHARS:
            break
        text += seam + piece
        if piece.rstrip().endswith("}") and split_event(text)[1] is not None:
            return text, number
    return None


def find_heads(lines: Sequence[str]) -> dict[int, int]:
    """The index of the line that each piece was wrapped off, where a window surely wrapped it: the line before had no room for its first word.

    Empty if a line is wider than any window, as then nothing was wrapped.
    """
    width = max((len(part) for line in lines for part in line.split("\n")), default=0)
    heads: dict[int, int] = {}
    for at in range(1, len(lines) if width <= MAX_COLUMNS else 0):
        before, first_word = lines[at - 1].rstrip(), lines[at].lstrip().split(" ", 1)[0]
        is_full = len(lines[at - 1]) >= width or len(before) + 1 + len(first_word) > width
        goes_on = _PLACE.match(lines[at]) is not None or len(prefixes_of(lines[at])) < LEAST_PREFIX_CHARS
        if before and first_word and is_full and goes_on:
            heads[at] = heads.get(at - 1, at - 1)
    return heads


def with_crossing(matches: list[Match], crossing: Crossing | None) -> list[Match]:
    """The matches of a piece, with those that go on in the next one replacing the ones that the break cut short."""
    if crossing is None:
        return matches
    kept = [match for match in matches if (match.format.name, match.position) not in crossing.superseded]
    return sorted([*kept, *crossing.found], key=lambda match: match.position)


def _groups(dialect: Dialect, lines: Sequence[str]) -> Iterator[range]:
    """The line indices of each head with its pieces; a head alone is left out."""
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
    """Whether a line begins as a load's lines do, or with a collector's prefix."""
    if dialect.head.match(line) is not None:
        return True
    if _MAY_HAVE_PREFIX.match(line) is None:
        return False
    bare = strip_prefixes(line)
    return len(line) - len(bare) >= LEAST_PREFIX_CHARS or dialect.head.match(bare) is not None


def _layout(lengths: list[int]) -> tuple[int, bool]:
    """The width of the window, and whether it wraps at that column: then most pieces are as wide."""
    width = max(lengths, default=0)
    long = [length for length in lengths if length >= LONG_SHARE * width]
    return width, long.count(width) >= AT_THE_COLUMN * len(long) > 0


@dataclass(frozen=True, slots=True)
class _Joined:
    """Pieces joined to one text, with where each begins in it and how many of its first characters were left out."""

    text: str
    starts: tuple[int, ...]
    cuts: tuple[int, ...]

    def piece_at(self, position: int) -> int:
        return max(number for number, start in enumerate(self.starts) if start <= position)


def _joins(pieces: Sequence[str], width: int, at_the_column: bool) -> Iterator[_Joined]:
    """The pieces as one line, in each way that they may have been wrapped, the likeliest first.

    Wrapping at a column loses nothing but trailing blanks. Wrapping at blanks loses one blank, except after a hyphen, where a window may wrap
    too, and within a word that is wider than the window.
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
    """Whether a window that wraps at blanks wrapped here because a word was wider than a line."""
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
    """Whether the pieces can hold any line format, however they are joined."""
    dense = "".join(lines[group.start : group.stop]).replace(" ", "")
    return any(anchor in dense for anchor in dialect.dense_anchors)


class _GroupReader:
    """Collects the matches of one head's pieces: of each way of joining them, those that no earlier way has shown."""

    def __init__(self, dialect: Dialect, first_line: int, group: range, pieces: list[str], at_the_column: bool) -> None:
        self.pieces = pieces
        self.crossings: dict[int, Crossing] = {}
        self._at_the_column = at_the_column
        self._first_line = first_line
        self._group = group
        self._dialect = dialect
        self._shown: set[str] = set()

    @cached_property
    def _alone(self) -> list[list[Match]]:
        """The matches of each piece by itself. Most groups hold no match that crosses a break, and need them not."""
        numbered = zip(self._group, self.pieces, strict=True)
        return [find_matches(self._dialect, self._first_line + at, piece) for at, piece in numbered]

    def take(self, joined: _Joined) -> None:
        """Add to `crossings` the matches that cross a break when the pieces are joined this way."""
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
        if last > first:
            end = self.crossings.setdefault(self._group[last], Crossing())
            end.ends_at = max(end.ends_at, match.end - joined.starts[last] + joined.cuts[last])
        return True


def _at(match: Match, position: int, line: int) -> Match:
    readings = tuple(replace(reading, line=line) for reading in match.readings)
    return Match(position, position + match.end - match.position, match.format, readings)
