"""The lines that our own engines print among the libraries' output, one JSON object each.

They make a raw log complete: what vLLM and unsloth do not print (bytes to the byte, the answer, the losses) is there too.
"""

from __future__ import annotations

import json
from typing import Any

PREFIX = "loadcheck: "


def format_event(event: str, fields: dict[str, Any]) -> str:
    """One line, ASCII only, so that no terminal code or line break in a value can forge another line."""
    return PREFIX + json.dumps({"event": event, **fields}, ensure_ascii=True, allow_nan=False)


def parse_event(text: str) -> dict[str, Any] | None:
    """The event in `text`, which follows PREFIX; None where it is no event."""
    try:
        data, _ = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) and isinstance(data.get("event"), str) else None
