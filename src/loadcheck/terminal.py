"""Terminal output: escapes untrusted text, and fits tables into any width without truncating a figure."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from textwrap import fill

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.markup import escape as escape_markup
from rich.text import Text

from loadcheck.errors import printable, printable_lines

UNLIMITED = 1_000_000
"""Columns if stdout is not a terminal: nothing is wrapped, so that each sentence is one line to grep."""
GAP = 2
LEAST_NAME = 12
"""Columns that a shortened name keeps, to stay recognizable."""
LEAST_TEXT = 24
"""Text with less room than this next to its lead goes below it."""


class Name(str):
    """A cell that may be shortened in its middle; every other cell of a table is a figure or a word, and is never shortened."""

    __slots__ = ()


def escape(text: str) -> str:
    """Untrusted text (from a log, a model, a variable or a path) without markup and control characters."""
    return escape_markup(printable(text))


def console(stderr: bool = False) -> Console:
    """A console whose width is $COLUMNS, else that of the terminal, else unlimited; its output needs no colour to be understood."""
    stream, columns = sys.stderr if stderr else sys.stdout, os.environ.get("COLUMNS", "")
    width = int(columns) if columns.isdecimal() else 0
    if not width and not (stream is not None and stream.isatty()):
        width = UNLIMITED
    return _Console(stderr=stderr, highlight=False, width=width or None)


class _Console(Console):
    """A console that raises BrokenPipeError like print, instead of exiting with code 1."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def print_whole(out: Console, text: str) -> None:
    """Print a line that people copy, such as flags, without wrapping it."""
    out.print(printable_lines(text), markup=False, soft_wrap=True)


def print_words(out: Console, text: str) -> None:
    """Print a sentence with a path in it: wrapped only between words, so that the path stays whole."""
    print_whole(out, fill(printable(text), out.width, break_long_words=False, break_on_hyphens=False))


def print_item(out: Console, lead: Text, text: str | Text) -> None:
    """Print `text` after `lead` with a hanging indent; on a narrow terminal, print it below `lead`."""
    lead, indent = lead + " ", lead.cell_len + 1
    if out.width - indent < LEAST_TEXT:
        lead.rstrip()
        out.print(lead, soft_wrap=True)
        lead, indent = Text(GAP * " "), GAP
    body = text if isinstance(text, Text) else Text(printable(text))
    lines = []
    for number, line in enumerate(body.wrap(out, max(out.width - indent, 1))):
        line.rstrip()
        lines.append((lead if number == 0 else Text(" " * indent)) + line)
    out.print(Text("\n").join(lines), soft_wrap=True)  # printing each by itself takes three times as long


def print_table(
    out: Console,
    header: Sequence[str],
    justify: str,
    rows: Iterable[Sequence[str]],
    styles: Mapping[str, str] | None = None,
) -> None:
    """Print a table. Names are shortened if room is short; if that is not enough, each row takes several lines.

    Args:
        justify: "l" or "r" for each column.
        styles: the style of a row's last cell, by its text.
    """
    cells = [[type(cell)(printable(cell)) for cell in row] for row in rows]
    widths = _widths([header, *cells], out.width)
    if widths is None:
        for row in cells:
            _print_stacked(out, header, justify, row, styles or {})
        return
    shown = [list(header), *cells] if any(header) else cells
    if shown:
        lines = (_line(row, justify, widths, styles or {}) for row in shown)
        out.print(Text("\n").join(lines), soft_wrap=True)


def _widths(rows: Sequence[Sequence[str]], room: int) -> list[int] | None:
    """The width of each column; None if the figures alone are too wide."""
    columns = list(zip(*rows, strict=True))
    widths = [max(cell_len(cell) for cell in column) for column in columns]
    least = [max(_least(cell) for cell in column) for column in columns]
    spare = room - GAP * (len(columns) - 1) - sum(least)
    if spare < 0:
        return None
    for column, width in enumerate(widths):
        widths[column] = min(width, least[column] + spare)
        spare -= widths[column] - least[column]
    return widths


def _least(cell: str) -> int:
    return min(cell_len(cell), LEAST_NAME) if isinstance(cell, Name) else cell_len(cell)


def _line(row: Sequence[str], justify: str, widths: Sequence[int], styles: Mapping[str, str]) -> Text:
    line = Text()
    for cell, side, width in zip(row, justify, widths, strict=True):
        shown = shortened(cell, width)
        padding = " " * (width - cell_len(shown))
        line.append(padding + shown if side == "r" else shown + padding)
        line.append(" " * GAP)
    line.rstrip()
    if row[-1] in styles:
        line.stylize(styles[row[-1]], len(line) - len(row[-1]))
    return line


def _print_stacked(
    out: Console, header: Sequence[str], justify: str, row: Sequence[str], styles: Mapping[str, str]
) -> None:
    """Print a row on one line if it fits; otherwise its first and its unlabelled last cell, with the others below."""
    first = row[0] if justify[0] == "l" else f"{header[0]} {row[0]}"
    last = "" if header[-1] else row[-1]
    labels = header[1:] if header[-1] else header[1:-1]
    pairs = [(f"{label} " if label else "", cell) for label, cell in zip(labels, row[1:], strict=False) if cell]
    whole = (GAP * " ").join(filter(None, (first, ", ".join(label + cell for label, cell in pairs), last)))
    if cell_len(whole) <= out.width:
        lines = [whole]
    else:
        lines = [f"{first}{GAP * ' '}{last}".rstrip(), *_packed(pairs, out.width - GAP)]
    for number, line in enumerate(lines):
        text = Text(line if number == 0 else GAP * " " + line)
        if number == 0 and last in styles:
            text.stylize(styles[last], len(line) - len(last))
        out.print(text, soft_wrap=True)


def _packed(pairs: Iterable[tuple[str, str]], room: int) -> list[str]:
    """Labels with their cells, as many per line as fit; a cell is never wrapped, and only a name is shortened."""
    lines: list[str] = []
    for label, cell in pairs:
        name_room = max(room - cell_len(label) - 1, LEAST_NAME)
        item = label + (shortened(cell, name_room) if isinstance(cell, Name) else cell)
        if lines and cell_len(f"{lines[-1]}, {item},") <= room:
            lines[-1] += f", {item}"
        else:
            lines = [*lines[:-1], lines[-1] + ",", item] if lines else [item]
    return lines


def shortened(text: str, width: int) -> str:
    """The text with its middle replaced by an ellipsis, so that it takes at most `width` columns."""
    if cell_len(text) <= width:
        return text
    tail = (width - 1) // 2
    end = set_cell_size(text[::-1], tail)[::-1] if tail else ""
    return f"{set_cell_size(text, width - 1 - tail)}…{end}"
