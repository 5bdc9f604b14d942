"""Templates to pages: everything that is filled in is escaped, and a page may load and run nothing."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from loadcheck.errors import printable
from loadcheck.units import show_bytes, to_gib

TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, **values: Any) -> str:
    """The page of a template of this folder, without its ending."""
    text: str = _environment().get_template(f"{template}.html.j2").render(**values)
    return text


@cache
def _environment() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # 40 ms, for those who ask for a page

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, finalize=_finalize,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"gib": _gib, "size": show_bytes, "exact": _exact, "share": _share}
    return environment


def _finalize(value: Any) -> Any:
    """Text from elsewhere without a control character; what is not known as nothing; markup of our own templates as it is."""
    if value is None:
        return ""
    return printable(value) if type(value) is str and not value.isprintable() else value


def _gib(num_bytes: float | None, decimals: int = 2) -> str:
    return "" if num_bytes is None else f"{to_gib(num_bytes):.{decimals}f}"


def _exact(num_bytes: float | None) -> str:
    return "" if num_bytes is None else f"{round(num_bytes):,}"


def _share(part: float, whole: float) -> str:
    """Per cent for a style, within what there is room for."""
    return f"{min(max(100 * part / whole, 0.0), 100.0) if whole else 0.0:.3f}%"
