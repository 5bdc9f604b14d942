"""Reads a file of any size as clean, numbered lines, in constant memory."""

from __future__ import annotations

import codecs
import gzip
import os
import re
import stat
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from shutil import copyfileobj
from tempfile import TemporaryDirectory
from typing import BinaryIO

from loadcheck.errors import BadInput, Problem, remedy_of
from loadcheck.logs.event_lines import EVENT_ANCHOR
from loadcheck.logs.payloads import unwrap_block

BLOCK_BYTES = 1024 * 1024
MAX_LINE_CHARS = 1024 * 1024
"""A longer line is split. A figure at the split is lost, and so reported as missing."""

MAX_TAIL_CHARS = 64 * 1024
_RECORD = re.compile(r"\n(?=[^\n]{0,120}?(?:\b(?:DEBUG|INFO|WARNING|ERROR) \d\d-\d\d |\bUnsloth: ))")
"""Before a line of vLLM or unsloth that begins as their lines do, behind any prefix. No line is wrapped there."""

# ECMA-48: control sequences, control strings (a title, a link, a collector's own), and short escapes such as tput's `ESC ( B`.
_ANSI = re.compile(
    r"\x1b(?:\[[0-?]{0,64}[ -/]{0,4}[@-~]|[\]PX^_][^\x07\x1b\n]{0,4096}(?:\x07|\x1b\\)|[#%(-/][0-~]|[78=>cDEHM])"
)
# Colours whose escape character a collector wrote out (rsyslog's #033, cat's ^[, a literal's \\x1b) or dropped.
_WRITTEN_COLOR = re.compile(r"(?:#033|\^\[|\\(?:x1b|033|u001b|e)|[\u241b\u2190])?\[(?:\d{1,3}(?:;\d{1,3}){0,4})?m")
_COLOR_ENDS = ("[0m", "[0;0m", "[39m", "[00m")
"""A text without any of these has no colours."""
_ENDING_NULS = re.compile(r"\0{1,64}(?=\r?\n)")
_ZERO_WIDTH = re.compile(r"(?<!\d)[\u200b\u2060\ufeff]|[\u200b\u2060\ufeff](?!\d)", re.ASCII)
"""What web pages and chats put between words, and a byte order mark where files were joined; within a number it is no digit."""
_QUOTES = {"&#39;": "'", "&#x27;": "'", "&apos;": "'", "&#34;": '"', "&quot;": '"'}
"""Quotes in HTML. Text without any was not escaped, or holds nothing that escaping changes in a figure."""
_ESCAPED = _QUOTES | {"&lt;": "<", "&gt;": ">", "&amp;": "&"}
_MARKUP = re.compile(r"&(?:#39|#x27|#34|quot|apos|lt|gt|amp);|<br ?/?>|</?(?:span|pre|div|code|p)\b[^<>\n]{0,200}>")
_GZIP = b"\x1f\x8b\x08"
MAX_UNPACKED_BYTES = 4 * 1024**3
"""More than any log that was compressed holds: a file of a few megabytes may unpack to terabytes."""
_BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


@contextmanager
def rereadable(path: Path, stream: BinaryIO | None = None) -> Iterator[Path]:
    """`path` itself, or a temporary copy of what can be read only once: a pipe, a socket, a terminal, or `stream`.

    Copying takes constant memory. The copy has the name of `path` ("stdin" for `stream`) and is removed afterwards; errors name `path`.
    """
    if stream is None and not _readable_once(path):
        yield path
        return
    with TemporaryDirectory(prefix="loadcheck-") as folder:
        copy = Path(folder) / ("stdin" if stream is not None else path.name)
        try:
            with copy.open("wb") as file, path.open("rb") if stream is None else nullcontext(stream) as source:
                copyfileobj(source, file)
            yield copy
        except BadInput as error:
            given = "stdin" if stream is not None else str(path)
            problems = [replace(problem, where=problem.where.replace(str(copy), given)) for problem in error.problems]
            raise BadInput(problems) from None


def _readable_once(path: Path) -> bool:
    try:
        mode = path.stat().st_mode
        return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or (stat.S_ISCHR(mode) and _is_terminal(path))
    except OSError:
        return False  # reading the file reports the error


def _is_terminal(path: Path) -> bool:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK)
    try:
        return os.isatty(descriptor)
    finally:
        os.close(descriptor)


def read_blocks(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (number of its first line, text) for blocks of whole lines of about a megabyte, unwrapped from a collector's JSON (logs/payloads.py) and
    without terminal codes.

    BadInput if the file is missing, unreadable or empty.
    """
    line, rest, any_bytes = 1, "", False
    for piece, is_last in _with_last(_decoded(path)):
        any_bytes = True
        text = rest + piece
        end = _end_of_block(text)
        if is_last:  # with its last line, which may be the wrapped rest of the one before, and end without a line break
            yield line, _plain(unwrap_block(text))
            return
        if end == 0 and len(text) < MAX_LINE_CHARS:
            rest = text
            continue
        block, rest = (text[:end], text[end:]) if end else (text, "")
        yield line, _plain(unwrap_block(block))
        line += block.count("\n")
    if not any_bytes:
        raise BadInput(Problem(str(path), "the file is empty", "give the log of a load"))


def _end_of_block(text: str) -> int:
    """Where a block ends: before the last line that begins a record, so that what was wrapped off a line stays in its block; failing that, after the
    last whole line; 0 without one.
    """
    last = text.rfind("\n") + 1
    near = max(last - MAX_TAIL_CHARS, 0)
    heads = [match.end() for match in _RECORD.finditer(text, near, last)]
    return heads[-1] if heads else last


def _with_last(pieces: Iterator[str]) -> Iterator[tuple[str, bool]]:
    """Each piece, and whether it is the last."""
    before: str | None = None
    for piece in pieces:
        if before is not None:
            yield before, False
        before = piece
    if before is not None:
        yield before, True


def read_lines(path: Path, numbers: Collection[int]) -> dict[int, str]:
    """The clean text of these lines of a log, by number, as far as the log has them. BadInput as in `read_blocks`."""
    found: dict[int, str] = {}
    for first, block in read_blocks(path):
        if any(first <= number <= first + block.count("\n") for number in numbers):
            lines = block.split("\n")
            found |= {n: clean_line(lines[n - first]) for n in numbers if 0 <= n - first < len(lines)}
    return found


def clean_line(line: str) -> str:
    """The line without terminal codes; a carriage return, as progress bars print it, becomes a line break."""
    return _plain(line).replace("\r", "\n")


def _plain(text: str) -> str:
    """The text without terminal codes and NULs at the ends of lines, and with plain for non-breaking spaces; line numbers stay the same."""
    if "\x1b" in text:
        text = _ANSI.sub("", text)
    if any(end in text for end in _COLOR_ENDS):
        text = _WRITTEN_COLOR.sub("", text)
    if "\0" in text:
        text = _ENDING_NULS.sub("", text)
    if any(sign in text for sign in _QUOTES):
        text = "\n".join(map(_without_markup, text.split("\n")))
    if not text.isascii():
        text = _ZERO_WIDTH.sub("", text).replace("\u00a0", " ")
    return text


def _without_markup(line: str) -> str:
    """A line of a page in HTML (nbconvert, a CI's web log) as it is shown. An event of ours is JSON, whose strings may hold anything."""
    if ("&" not in line and "<" not in line) or EVENT_ANCHOR + '"' in line:
        return line
    return _MARKUP.sub(lambda found: _ESCAPED.get(found[0], ""), line)


def _encoding(block: bytes) -> str:
    """The encoding by the byte order mark. UTF-16's counts only if a quarter of the bytes are NUL, as binary output may begin with it too."""
    name = next((name for bom, name in _BOMS if block.startswith(bom)), "utf-8")
    return "utf-8" if name == "utf-16" and block.count(0) * 4 < len(block) else name


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO | gzip.GzipFile]:
    """The file's bytes, decompressed if it is a log that logrotate compressed."""
    with path.open("rb") as file:
        if file.seekable() and file.read(len(_GZIP)) == _GZIP:
            file.seek(0)
            with gzip.GzipFile(fileobj=file) as unpacked:
                yield unpacked
            return
        if file.seekable():
            file.seek(0)
        yield file


def _decoded(path: Path) -> Iterator[str]:
    try:
        with _opened(path) as file:
            block = file.read(BLOCK_BYTES)
            encoding = _encoding(block)
            decoder = codecs.getincrementaldecoder(encoding)(errors="replace")
            while block:
                yield decoder.decode(block)
                block = file.read(BLOCK_BYTES)
                if isinstance(file, gzip.GzipFile) and file.tell() > MAX_UNPACKED_BYTES:
                    raise BadInput(Problem(str(path), "unpacks to more than any log holds", "give the log of one load"))
            if tail := decoder.decode(b"", final=True):
                yield tail
    except IsADirectoryError:
        raise BadInput(Problem(str(path), "a folder, not a log", "give a log, or a run folder with run.json")) from None
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise BadInput(
            Problem(str(path), "damaged or cut off, as gzip cannot decompress it", "give the whole file")
        ) from None
    except OSError as error:
        raise BadInput(Problem(str(path), f"cannot be read ({error.strerror})", remedy_of(error))) from None
