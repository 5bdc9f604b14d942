"""Where the facts live (env/*.toml), and how one file becomes one checked object."""

from __future__ import annotations

import os
import sys
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, get_args

from loadcheck.errors import BadInput, Problem, suggestion

# Looking for plugins reads the metadata of every installed package: 30 ms of each start, for none.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "1")

from pydantic import BaseModel, ConfigDict, ValidationError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SpecT = TypeVar("SpecT", bound="Spec")


class Spec(BaseModel):
    """A frozen record from a TOML file; a key that it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


@cache
def env_dir() -> Path:
    """The folder of facts: env/ of the checkout, or the copy inside an installed package."""
    package = Path(__file__).resolve().parents[1]
    checkout = package.parents[1] / "env"
    return checkout if (checkout / "versions.toml").exists() else package / "env"


def read_toml(path: Path) -> dict[str, Any]:
    """Parse a TOML file; BadInput where it is missing, unreadable or no TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInput(Problem(str(path), "no such file", "check the name and the folder")) from None
    except OSError as error:
        raise BadInput(Problem(str(path), f"cannot be read ({error.strerror})", "check its permissions")) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInput(Problem(str(path), f"not valid TOML ({error})", "mend that line")) from None


def validate(spec: type[SpecT], data: object, where: str) -> SpecT:
    """`data` as a `spec`; BadInput with every problem of it at once."""
    try:
        return spec.model_validate(data)
    except ValidationError as error:
        raise BadInput([_problem(spec, detail, where) for detail in error.errors()]) from None


def load(spec: type[SpecT], path: Path) -> SpecT:
    """Read one TOML file as a `spec`."""
    return validate(spec, read_toml(path), str(path))


def _problem(spec: type[BaseModel], detail: Any, where: str) -> Problem:
    """A pydantic error as one of ours: the dotted key, what is wrong, and how to mend it."""
    location = [str(part) for part in detail["loc"]]
    key = ".".join(location) or None
    if detail["type"] == "extra_forbidden":
        return Problem(where, "unknown key", suggestion(location[-1], _keys_beside(spec, location)), key)
    if detail["type"] == "missing":
        return Problem(where, "missing", "add it", key)
    ours = detail["msg"].startswith("Value error, ")  # raised by a spec itself, already in our words
    message = detail["msg"].removeprefix("Value error, ") if ours else detail["msg"][:1].lower() + detail["msg"][1:]
    what, _, remedy = message.partition("; ")
    got = f" (got {detail['input']!r})" if isinstance(detail["input"], str | int | float | bool) else ""
    return Problem(where, what + got, remedy or "correct the value", key)


def _keys_beside(spec: type[BaseModel], location: list[str]) -> list[str]:
    """The keys that the table holding `location` may have."""
    for part in location[:-1]:
        field = spec.model_fields.get(part)
        choices = (field.annotation, *get_args(field.annotation)) if field else ()  # a table may be optional
        inner = [choice for choice in choices if isinstance(choice, type) and issubclass(choice, BaseModel)]
        if not inner:
            return []
        spec = inner[0]
    return list(spec.model_fields)
