"""Text from elsewhere on a terminal."""

from __future__ import annotations

from rich.markup import escape as escape_markup

from loadcheck.errors import printable


def escape(text: str) -> str:
    """Text from a log, a model, a variable or a path, for the terminal: no markup, and no control character."""
    return escape_markup(printable(text))
