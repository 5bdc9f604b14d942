"""Unwraps a log from the JSON of a log collector: Google Cloud, Docker's json-file, fluentd, journald, CloudWatch, Elastic, Loki.

A collector writes one record per line, or, with `--format=json` or jq, one value of an indented array per line, or all records on one
line. What the program printed is one string of each record, with its line breaks and quotes escaped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

KEYS = (
    "textPayload",
    "message",
    "log",
    "msg",
    "MESSAGE",
    "@message",
    "line",
    "Message",
    "LogEntry",
    "body",
    "stringValue",
    "text",
    "content",
)
"""Keys of the string that the program printed: Google Cloud; JSON loggers, CloudWatch and Elastic; Docker and fluentd; zap; journald; Logs Insights; Loki; Azure; OpenTelemetry."""
_WITHIN = ("jsonPayload", "_source", "fields", "kubernetes", "data", "attributes", "body", "record")
"""Keys of a nested object that may hold that string."""
_NAMED = "|".join(KEYS)
_FIELD = re.compile(rf'"(?:{_NAMED})"\s{{0,9}}:\s{{0,9}}("(?:[^"\\]|\\.)*")')
_ALONE = re.compile(rf'\s*"(?:{_NAMED})"\s{{0,9}}:\s{{0,9}}("(?:[^"\\]|\\.)*")\s*,?\s*$')
_CELL = re.compile(r'\s*("(?:[^"\\]|\\.)*\\n"|"(?=[^\n]{0,4096}?\\u001b\[)(?:[^"\\]|\\.)*")\s*,?\s*$')
"""One line of a notebook's saved output (.ipynb): only a string, which ends in an escaped line break, or has colors, as a traceback's parts do."""
_LOGFMT = re.compile(r'(?:time|ts|level|t|lvl)=\S.{0,300}? (?:msg|message)=("(?:[^"\\]|\\.)*")')
"""One record of logfmt, as Go programs write it."""
_STAMPED = re.compile(r'[^"{}]{0,300}?(?=\{\s{0,9}")')
"""What fluentd and `docker compose` put before a record: a time and a tag."""
_ERROR = re.compile(r"loadcheck: $|Error|Exception|payload|config")
MAX_DEPTH = 3
"""How deeply records may nest: a record's message is a record if one collector reads another's output."""
_SIGNS = (*(f'"{key}"' for key in KEYS), ' msg="', ' message="', '\\n"', "\\u001b[")
"""A line without any of these is not a record."""


def unwrap_block(block: str) -> str:
    """The block with each record replaced by what the program printed. A line break within it becomes a carriage return, so that
    line numbers stay the same."""
    signs = [sign for sign in _SIGNS if sign in block]
    if not signs:
        return block
    return "\n".join(unwrap(line) if _holds(line, signs) else line for line in block.split("\n"))


def unwrap(line: str, depth: int = MAX_DEPTH) -> str:
    """What the program printed, if the line is a record, a value of one, or a list of records; otherwise the line itself."""
    if not depth or not _holds(line, _SIGNS):
        return line
    messages = _messages(line)
    return line if messages is None else "\r".join(unwrap(_one_line(each), depth - 1) for each in messages)


def _holds(line: str, signs: Sequence[str]) -> bool:
    return any(sign in line for sign in signs)


def _one_line(message: str) -> str:
    return message.rstrip("\r\n").replace("\r\n", "\r").replace("\n", "\r")


def _messages(line: str) -> list[str] | None:
    text = line.strip()
    if match := _ALONE.match(text) or _LOGFMT.match(text) or _CELL.match(text):
        return _strings([match[1]])
    if text.startswith("["):
        return _strings(_FIELD.findall(text)) or None
    start = _STAMPED.match(text)
    if start is None or _ERROR.search(start.group()):
        return None
    record = _decoded(text[start.end() :].rstrip(","))
    message = _message(record)
    if message is not None:
        return [message]
    return (
        (_strings(_FIELD.findall(text)) or None) if isinstance(record, dict) else None
    )  # one object holds all records


def _strings(quoted: list[str]) -> list[str]:
    return [text for each in quoted if isinstance(text := _decoded(each), str)]


def _decoded(text: str) -> Any:
    """The value of a JSON text; None if it is not JSON. Strings may hold unescaped terminal codes."""
    try:
        return json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return None


def _message(record: Any) -> str | None:
    """The string of a record that the program printed; None if there is none."""
    if not isinstance(record, dict):
        return None
    for key in KEYS:
        if (text := _text(record.get(key))) is not None:
            return text
    return next((text for key in _WITHIN if (text := _message(record.get(key))) is not None), None)


def _text(value: Any) -> str | None:
    """A string, or journald's list of bytes, which it writes for a string that is not plain text."""
    if isinstance(value, list) and value and all(isinstance(each, int) and 0 <= each < 256 for each in value):
        return bytes(value).decode("utf-8", errors="replace")
    return value if isinstance(value, str) else None
