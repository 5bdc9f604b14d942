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
_LIST = re.compile(r"\[\s{0,9}(?:[\[{\"]|$)|\[\d{1,9}\] [\w.*-]{1,128}: \[")
"""The beginning of a list of records, or of fluent-bit's numbered one; a line may also begin with a time or a rank in brackets."""
_FIELD = re.compile(rf'"(?:{_NAMED})"\s{{0,9}}:\s{{0,9}}("(?:[^"\\]|\\.)*")')
_ALONE = re.compile(rf'\s*"(?:{_NAMED})"\s{{0,9}}:\s{{0,9}}("(?:[^"\\]|\\.)*")\s*,?\s*$')
_CELL = re.compile(r'\s*("(?:[^"\\]|\\.)*\\n"|"(?=[^\n]{0,4096}?\\u001b\[)(?:[^"\\]|\\.)*")\s*,?\s*$')
"""One line of a notebook's saved output (.ipynb): only a string, which ends in an escaped line break, or has colors, as a traceback's parts do."""
_LOGFMT = re.compile(r'(?:time|ts|level|t|lvl)=\S.{0,300}? (?:msg|message)=("(?:[^"\\]|\\.)*")')
"""One record of logfmt, as Go programs write it."""
_QUERIED = re.compile(r'\[\s{0,9}"\d{13,19}"\s{0,9},\s{0,9}("(?:[^"\\]|\\.)*")\s{0,9}[,\]]')
"""One line in the answer of Loki's query API: its time in nanoseconds, and the line (logcli and Grafana write objects)."""
_RECORDED = re.compile(r'\[\d{1,9}(?:\.\d{1,9})?,\s?"o",\s?("(?:[^"\\]|\\.)*")\]\s*$')
"""One output of a terminal that asciinema recorded."""
_YAML = re.compile(
    r"""(?:(?:- )?(?:textPayload|message|log|msg): (?:("(?:[^"\\]|\\.)*")|'((?:[^']|'')*)')|textPayload: ([^"'|>\s].*))\s*$"""
)
"""A record's string in YAML, which `gcloud logging read` writes."""
_CSV = re.compile(
    r'(?=[^,]{0,66}\d)(?:"[^",\n]{1,64}"|[^",\s][^",\n]{0,63}),(?:"[^",\n]{0,64}",|[^",\n]{0,64},){0,5}"(.*)"$'
)
"""A row of a table in CSV, as CloudWatch and Datadog export them: a time, at most five more cells, and the line in quotes, whose own may be doubled."""
_STRUCTURE = re.compile(
    r'\s*(?:---|(?:insertId|logName|receiveTimestamp|severity|timestamp): \S[^\n]{0,200}|[\[\]{}]{1,2},?|"(?:timestamp|ingestionTime|eventId|insertId|logName|severity|receiveTimestamp|stream|time|ts|level|levelname|name|'
    r'output_type|execution_count|metadata|jsonPayload|resource|labels|attributes|fields|_source|data|record)"\s?: ?(?:"[^"]{0,200}"|[\d.]{1,32}|null|\{\}|[\[{]),?)\s*$'
)
"""The lines of an indented record around the string that the program printed. They would part a traceback's lines."""
_STAMPED = re.compile(r'[^"{}]{0,300}?(?=\{\s{0,9}")')
"""What fluentd and `docker compose` put before a record: a time and a tag."""
_ERROR = re.compile(r"loadcheck: $|Error|Exception|payload|config")
MAX_DEPTH = 3
"""How deeply records may nest: a record's message is a record if one collector reads another's output."""
_SIGNS = (
    *(f'"{key}"' for key in KEYS), ' msg="', ' message="', '\\n"', "\\u001b[", '"values"', '"o",', ': "', ": '", ',"', "textPayload",
)  # fmt: skip
"""A line without any of these is not a record."""


def unwrap_block(block: str) -> str:
    """The block with each record replaced by what the program printed. A line break within it becomes a carriage return, so that
    line numbers stay the same."""
    signs = [sign for sign in _SIGNS if sign in block]
    if not signs:
        return block
    lines = block.split("\n")
    unwrapped = [unwrap(line) if _holds(line, signs) else line for line in lines]
    if any(line is not before and _is_field(before) for line, before in zip(unwrapped, lines, strict=True)):
        unwrapped = [
            "" if line is before and _STRUCTURE.match(line) else line
            for line, before in zip(unwrapped, lines, strict=True)
        ]
    return "\n".join(unwrapped)


def _is_field(line: str) -> bool:
    """Whether a line is one field of an indented record, or one line of a notebook's output."""
    if line.startswith("textPayload: "):
        return True
    return line[:1] in " \t" and (_ALONE.match(line) is not None or _CELL.match(line) is not None)


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
    if (alone := _alone(text)) is not None:
        return alone
    if _LIST.match(text):
        return _all(text)
    start = _STAMPED.match(text)
    if start is None or _ERROR.search(start.group()):
        return None
    record = _decoded(text[start.end() :].rstrip(","))
    message = _message(record)
    if message is not None:
        return [message]
    return _all(text) if isinstance(record, dict) else None  # one object holds all records


def _alone(text: str) -> list[str] | None:
    """The string of a line that holds one: a field, a row or an event of a file with other lines; None if it does not."""
    if match := _ALONE.match(text) or _LOGFMT.match(text) or _CELL.match(text) or _RECORDED.match(text):
        return _strings([match[1]])
    if match := _YAML.match(text):
        return _strings([match[1]]) if match[1] else [match[3] or match[2].replace("''", "'")]
    if match := _CSV.match(text):
        return [match[1].replace('""', '"')]
    return None


def _all(text: str) -> list[str] | None:
    """The strings of all records of a line; None if there are none."""
    return _strings(_FIELD.findall(text)) or _strings(_QUERIED.findall(text)) or None


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
