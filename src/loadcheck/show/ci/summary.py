"""A verdict in Markdown, for the page of a CI job: the verdict first, then the failures, as many as fit."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from loadcheck.errors import printable
from loadcheck.show.ci.report import Report, Result

MAX_BYTES = 1024 * 1024
"""The limit of a step of GitHub Actions; above it, nothing is shown."""
SPARE_BYTES = 4096
"""Reserved for the last lines."""
MAX_CELL_CHARS = 500
_SPECIAL = re.compile(r"([\\`*_\[\]#|~])")


def markdown(report: Report, room_bytes: int = MAX_BYTES) -> str:
    """The summary in at most `room_bytes` of UTF-8; verdict, cause and fix come first, however little room there is.

    Args:
        room_bytes: what is left below the limit, if the file has content already.
    """
    parts = list(_head(report))
    left = room_bytes - SPARE_BYTES - _size("\n".join(parts))
    for table in (_failed(report.results), _figures(report.table)):
        for line in table:
            left -= _size(line) + 1
            if left < 0:
                return _joined([*parts, "", "The rest is not shown: it would exceed the size limit."], room_bytes)
            parts.append(line)
    return _joined(parts, room_bytes)


def _joined(parts: Iterable[str], room_bytes: int) -> str:
    return ("\n".join(parts) + "\n").encode()[: max(room_bytes, 0)].decode(errors="ignore")


def _size(text: str) -> int:
    return len(text.encode())


def _head(report: Report) -> Iterator[str]:
    yield f"## {report.status.upper()} {_plain(report.title)}"
    yield ""
    yield _plain(report.summary)
    for name, text in (("Cause", report.cause), ("Fix", report.fix)):
        if text:
            yield ""
            yield f"**{name}:** {_plain(text)}"
    if report.facts:
        yield ""
        yield ", ".join(f"{_plain(name)} {_plain(value)}" for name, value in report.facts)


def _failed(results: Sequence[Result]) -> Iterator[str]:
    failed = [each for each in results if each.outcome.is_bad]
    if failed:
        yield from ("", "| check | of | what |", "| --- | --- | --- |")
        yield from (_row((each.group, each.name, each.message)) for each in failed)


def _figures(table: Sequence[Sequence[str]]) -> Iterator[str]:
    """The table of figures, folded. It may be cut between rows; browsers close the open tag."""
    if not table:
        return
    header, *rows = table
    yield from ("", f"<details><summary>figures ({len(rows)})</summary>", "", _row(header))
    yield "| " + " | ".join(["---"] + ["---:"] * (len(header) - 1)) + " |"
    yield from map(_row, rows)
    yield from ("", "</details>")


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(map(_plain, cells)) + " |"


def _plain(text: str) -> str:
    """Log text as plain text: no Markdown, no HTML, no line break, at most MAX_CELL_CHARS."""
    cut = text if len(text) <= MAX_CELL_CHARS else f"{text[:MAX_CELL_CHARS]}…"
    return _SPECIAL.sub(r"\\\1", printable(cut)).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
