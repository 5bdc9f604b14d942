"""The log within the JSON of whoever collected it: Google Cloud, Docker's json-file, fluentd, journald, CloudWatch, Elastic, Loki.

A collector writes one record a line, or, with `--format=json` or jq, one value a line of an indented array, or all records on one
line. What the program printed is one string of each record, with its line breaks and quotes escaped.
"""

from __future__ import annotations

import json
import re
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
"""Of the string that the program printed: Google Cloud; JSON loggers, CloudWatch and Elastic; Docker and fluentd; zap; journald; Logs Insights; Loki; Azure; OpenTelemetry."""
_WITHIN = ("jsonPayload", "_source", "fields", "kubernetes", "data", "attributes", "body", "record")
"""Of the object that holds it, in a record that has it not at the top."""
_NAMED = "|".join(KEYS)
_FIELD = re.compile(rf'"(?:{_NAMED})"\s{{0,9}}:\s{{0,9}}("(?:[^"\\]|\\.)*")')
_ALONE = re.compile(rf'\s*"(?:{_NAMED})"\s{{0,9}}:\s{{0,9}}("(?:[^"\\]|\\.)*")\s*,?\s*$')
_CELL = re.compile(r'\s*("(?:[^"\\]|\\.)*\\n")\s*,?\s*$')
"""One line of a notebook's saved output (.ipynb): a string alone that ends in an escaped line break."""
_LOGFMT = re.compile(r'(?:time|ts|level|t|lvl)=\S.{0,300}? (?:msg|message)=("(?:[^"\\]|\\.)*")')
"""One record of logfmt, as Go programs write it."""
_STAMPED = re.compile(r'[^"{}]{0,300}?(?=\{\s{0,9}")')
"""What fluentd and `docker compose` put before a record: a time and a tag."""
_ERROR = re.compile(r"loadcheck: $|Error|Exception|payload|config")
MAX_DEPTH = 3
"""Of a record whose message is a record, as when one collector reads another's output."""
_SIGNS = (*(f'"{key}"' for key in KEYS), ' msg="', ' message="', '\\n"')
"""What a line must hold to be looked at."""


def unwrap_block(block: str) -> str:
    """The block with each record's line replaced by what the program printed; a line break within it becomes a carriage return,
    so that no line changes its number."""
    if not any(key in block for key in _SIGNS):
        return block
    return "\n".join(map(unwrap, block.split("\n")))


def unwrap(line: str, depth: int = MAX_DEPTH) -> str:
    """What the program printed, of a line that is a record, a value of one, or a list of them; else the line itself."""
    if not depth or not any(key in line for key in _SIGNS):
        return line
    messages = _messages(line)
    return line if messages is None else "\r".join(unwrap(_one_line(each), depth - 1) for each in messages)


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
    return (_strings(_FIELD.findall(text)) or None) if isinstance(record, dict) else None  # all records within one


def _strings(quoted: list[str]) -> list[str]:
    return [text for each in quoted if isinstance(text := _decoded(each), str)]


def _decoded(text: str) -> Any:
    """The value of a JSON text; None where it is none. A terminal's codes may stand unescaped within strings."""
    try:
        return json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return None


def _message(record: Any) -> str | None:
    """The string of a record that the program printed; None where it has none."""
    if not isinstance(record, dict):
        return None
    for key in KEYS:
        if (text := _text(record.get(key))) is not None:
            return text
    return next((text for key in _WITHIN if (text := _message(record.get(key))) is not None), None)


def _text(value: Any) -> str | None:
    """A string; journald gives one with other characters than letters as a list of its bytes."""
    if isinstance(value, list) and value and all(isinstance(each, int) and 0 <= each < 256 for each in value):
        return bytes(value).decode("utf-8", errors="replace")
    return value if isinstance(value, str) else None
