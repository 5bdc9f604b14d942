"""Output encoding: replacements for characters that stdout cannot encode, and JSON that every parser accepts."""

from __future__ import annotations

import codecs
import io
import json
import math
import sys
from typing import Any

STAND_INS = {"→": "->", "−": "-", "…": "..", "×": "x", "·": "."}
"""Replacements for the characters that loadcheck prints; any other character is escaped."""
HANDLER = "loadcheck"


def print_in_any_encoding() -> None:
    """Make stdout and stderr replace characters that their encoding lacks, instead of raising an error."""
    codecs.register_error(HANDLER, stand_in)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=HANDLER)


def stand_in(error: UnicodeError) -> tuple[str, int]:
    """The codec error handler: replacements for the characters of `error`, and the position at which to go on."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(STAND_INS.get(char) or _escaped(char) for char in text), error.end


def json_text(data: Any) -> str:
    """`data` as one indented JSON document in ASCII, so that it holds no terminal codes; NaN and infinity, which JSON lacks, become null."""
    return json.dumps(_finite(data), indent=2, allow_nan=False)


def _finite(data: Any) -> Any:
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    return [_finite(item) for item in data] if isinstance(data, list | tuple) else data


def _escaped(char: str) -> str:
    return char.encode("ascii", "backslashreplace").decode("ascii")
