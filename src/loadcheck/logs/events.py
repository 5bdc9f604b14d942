"""The lines that our own engines print among the libraries' output, one JSON object each.

They make a raw log complete: what vLLM and unsloth do not print (bytes to the byte, the answer, the losses) is there too.
"""

from __future__ import annotations

import json
from typing import Any

PREFIX = "loadcheck: "
EVENT_ANCHOR = PREFIX + "{"


def format_event(event: str, fields: dict[str, Any]) -> str:
    """One line, ASCII only, so that no terminal code or line break in a value can forge another line."""
    return PREFIX + json.dumps({"event": event, **fields}, ensure_ascii=True, allow_nan=False)


def parse_event(text: str) -> dict[str, Any] | None:
    """The event in `text`, which follows PREFIX; None where it is no event."""
    return _decode(text)[0]


def split_event(line: str) -> tuple[str, dict[str, Any] | None, str]:
    """A line as what stands before its event, the event, and what stands after it; None where PREFIX begins no event."""
    before, _, text = line.partition(PREFIX)
    event, end = _decode(text)
    return before, event, text[end:]


def _decode(text: str) -> tuple[dict[str, Any] | None, int]:
    """The event that `text` begins with, and where it ends; NaN and infinity are no JSON."""
    try:
        data, end = json.JSONDecoder(parse_constant=_refuse).raw_decode(text)
    except (ValueError, RecursionError):
        return None, 0
    is_event = isinstance(data, dict) and isinstance(data.get("event"), str)
    return (data, end) if is_event else (None, 0)


def _refuse(constant: str) -> Any:
    raise ValueError(constant)
