"""Text that leaves us: stand-ins for what stdout cannot encode, and JSON that every reader takes."""

from __future__ import annotations

import codecs
import io
import json
import math
import sys
from typing import Any

STAND_INS = {"→": "->", "−": "-", "…": "..", "×": "x", "·": "."}
"""For what we print ourselves; any other character becomes its escape."""
HANDLER = "loadcheck"


def print_in_any_encoding() -> None:
    """Have stdout and stderr print what their encoding lacks as stand-ins; nothing changes where it lacks nothing."""
    codecs.register_error(HANDLER, stand_in)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=HANDLER)


def stand_in(error: UnicodeError) -> tuple[str, int]:
    """The codec error handler: stand-ins for the characters that `error` is about, and where to go on."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(STAND_INS.get(char) or _escaped(char) for char in text), error.end


def json_text(data: Any) -> str:
    """`data` as one indented JSON document in ASCII, so that nothing in it moves a terminal; null for NaN and infinity, which are none."""
    return json.dumps(_finite(data), indent=2, allow_nan=False)


def _finite(data: Any) -> Any:
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    return [_finite(each) for each in data] if isinstance(data, list | tuple) else data


def _escaped(char: str) -> str:
    return char.encode("ascii", "backslashreplace").decode("ascii")
