"""What stdout cannot encode: said in other characters, so that a terminal or pipe in ASCII ends no command."""

from __future__ import annotations

import codecs
import io
import sys

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


def _escaped(char: str) -> str:
    return char.encode("ascii", "backslashreplace").decode("ascii")
