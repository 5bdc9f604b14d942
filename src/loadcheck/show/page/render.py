"""Render templates: all values are escaped, and a page may neither load nor run anything."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from loadcheck.errors import printable
from loadcheck.units import show_bytes, to_gib

TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, **values: Any) -> str:
    """Render the template of this name (without its file ending)."""
    text: str = _environment().get_template(f"{template}.html.j2").render(**values)
    return text


@cache
def _environment() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # 40 ms, only needed for pages

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, finalize=_finalize,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"gib": _gib, "size": show_bytes, "exact": _exact, "share": _share}
    return environment


def _finalize(value: Any) -> Any:
    """Remove control characters from text, and render None as nothing; markup of our templates is unchanged."""
    if value is None:
        return ""
    return printable(value) if type(value) is str and not value.isprintable() else value


def _gib(num_bytes: float | None, decimals: int = 2) -> str:
    return "" if num_bytes is None else f"{to_gib(num_bytes):.{decimals}f}"


def _exact(num_bytes: float | None) -> str:
    return "" if num_bytes is None else f"{round(num_bytes):,}"


def _share(part: float, whole: float) -> str:
    """A percentage for a style, from 0 to 100."""
    return f"{min(max(100 * part / whole, 0.0), 100.0) if whole else 0.0:.3f}%"
