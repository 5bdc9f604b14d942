"""Reads the files of facts (env/*.toml) as validated records.

msgspec, not pydantic: it imports in 5 ms instead of 200, which is most of what `loadcheck predict` may take. It stops at the first
error, so after a failure each key is checked by itself to report every problem at once.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import msgspec
import tomli_w

from loadcheck.errors import BadInput, Problem, remedy_of, suggestion

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SpecT = TypeVar("SpecT", bound="Spec")
Path_ = tuple[str, ...]

_BOUND = re.compile(r"^Expected `(?:int|float)` (>=|<=|>|<) (\S+)$")
_BOUND_WORDS = {">=": "at least", "<=": "at most", ">": "above", "<": "below"}

MAX_FILE_BYTES = 4 * 1024 * 1024
"""Far larger than any file of facts, so that a hostile one cannot fill memory."""

MAX_SHOWN_CHARS = 80
"""Longer values are truncated in messages."""


class Spec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A frozen record from a TOML file; an unknown key is an error.

    `__post_init__` raises a ValueError "what; how to fix it" for values that contradict each other.
    """


@cache
def env_dir() -> Path:
    """The folder of facts: env/ of the checkout, or the copy in the installed package."""
    package = Path(__file__).resolve().parents[1]
    checkout = package.parents[1] / "env"
    return checkout if (checkout / "versions.toml").exists() else package / "env"


def read_toml(path: Path) -> dict[str, Any]:
    """Parse a TOML file; BadInput if it is missing, unreadable or not TOML."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_FILE_BYTES + 1)
        if len(text) > MAX_FILE_BYTES:
            raise BadInput(Problem(str(path), f"is larger than {MAX_FILE_BYTES} bytes", "give a file of settings"))
        return tomllib.loads(text.decode("utf-8"))
    except FileNotFoundError:
        raise BadInput(Problem(str(path), "no such file", "check the name and the folder")) from None
    except OSError as error:
        raise BadInput(Problem(str(path), f"cannot be read ({error.strerror})", remedy_of(error))) from None
    except (ValueError, RecursionError) as error:
        raise BadInput(Problem(str(path), f"not valid TOML ({error})", "fix that line")) from None


def load(spec: type[SpecT], path: Path) -> SpecT:
    """Read one TOML file as a `spec`."""
    return validate(spec, read_toml(path), str(path))


def validate(spec: type[SpecT], data: object, where: str) -> SpecT:
    """`data` as a `spec`; BadInput with all of its problems at once."""
    try:
        return msgspec.convert(data, spec)
    except (msgspec.ValidationError, ValueError) as error:
        found = list(_problems(spec, data, where, ())) or [_as_problem(str(error), where, ())]
        raise BadInput(found) from None


def changed(spec: SpecT, changes: Mapping[str, Any], where: str | None = None) -> SpecT:
    """A copy with the values at some dotted keys changed, such as `changed(profile, {"adapters.r": 16})`.

    It is validated like a file: BadInput (for `where`) lists every unknown key, wrong value and contradiction at once. A table that is None is
    created.
    """
    data = to_data(spec)
    for key, value in changes.items():
        set_at(data, key, value)
    name = getattr(spec, "name", None)
    return validate(
        type(spec), data, where or type(spec).__name__.lower() + (f" {name}" if isinstance(name, str) else "")
    )


def set_at(data: dict[str, Any], key: str, value: Any) -> None:
    """Set the value at a dotted key of nested tables; tables that are missing or None are created.

    A key within a value that is no table stays whole, so that validation reports it as unknown.
    """
    name, _, rest = key.partition(".")
    if rest and data.get(name) is None:
        data[name] = {}
    if rest and isinstance(data[name], dict):
        set_at(data[name], rest, value)
    else:
        data[key] = msgspec.to_builtins(value)


def value_at(spec: Spec, key: str) -> Any:
    """The value at a dotted key, as plain data; None if there is none."""
    value: Any = to_data(spec)
    for name in key.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def flat(spec: Spec) -> dict[str, Any]:
    """Every value of the record as plain data, by dotted key; a table that is None counts as a value."""
    return dict(flat_items(to_data(spec)))


def flat_items(data: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of nested tables; an empty table counts as a value."""
    for key, value in data.items():
        if isinstance(value, dict) and value:
            yield from flat_items(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def differences(mine: Spec, other: Spec) -> dict[str, tuple[Any, Any]]:
    """The two values at each dotted key where they differ; None where a record lacks the key."""
    a, b = flat(mine), flat(other)
    return {key: (a.get(key), b.get(key)) for key in dict.fromkeys((*a, *b)) if a.get(key) != b.get(key)}


def shown(value: object, quote: str = "'") -> str:
    """A value for one line of a message: escaped, and truncated to `MAX_SHOWN_CHARS`."""
    text = repr(value)
    if isinstance(value, str):
        text = quote + text[1:-1] + quote
    return text if len(text) <= MAX_SHOWN_CHARS else f"{text[:MAX_SHOWN_CHARS]}…"


def to_data(spec: Spec) -> dict[str, Any]:
    """The record as plain dicts, lists and scalars; `validate` reads it back."""
    data: dict[str, Any] = msgspec.to_builtins(spec)
    return data


def to_toml(data: dict[str, Any]) -> str:
    """`to_data` as TOML text without None values, as TOML has no null."""
    return tomli_w.dumps(_without_none(data))


def _without_none(data: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _without_none(value) if isinstance(value, dict) else value
        for key, value in data.items()
        if value is not None
    }


def _problems(kind: Any, data: object, where: str, key: Path_) -> Iterator[Problem]:
    """Every problem of `data` as a `kind`, key by key."""
    inner = _record_in(kind)
    if inner is None or not isinstance(data, dict | list) or isinstance(data, list) is not _holds(kind, tuple):
        yield from _value_problems(kind, data, where, key)
    elif isinstance(data, list):
        for index, item in enumerate(data):
            yield from _problems(inner, item, where, (*key, str(index)))
    elif _holds(kind, dict):
        for name, item in data.items():
            yield from _problems(inner, item, where, (*key, name))
    else:
        yield from _record_problems(inner, data, where, key)


def _record_problems(record: type[Spec], data: dict[str, Any], where: str, key: Path_) -> Iterator[Problem]:
    fields = _fields(record)  # type: ignore[arg-type]  # mypy takes __hash__ of a class's instances
    for name in data:
        if name not in fields:
            yield Problem(where, "unknown key", suggestion(name, fields), ".".join((*key, name)))
    for name, field in fields.items():
        if name in data:
            yield from _problems(field.type, data[name], where, (*key, name))
        elif field.required:
            yield Problem(where, "missing", _add(_choices(field.type)), ".".join((*key, name)))


@cache
def _fields(record: type[Spec]) -> dict[str, msgspec.structs.FieldInfo]:
    """The fields of a record type by name; cached, as msgspec evaluates the annotations on each call."""
    return {field.name: field for field in msgspec.structs.fields(record)}


def _value_problems(kind: Any, data: object, where: str, key: Path_) -> Iterator[Problem]:
    try:
        msgspec.convert(data, kind)
    except (msgspec.ValidationError, ValueError) as error:
        message, rule = str(error), _rule(kind)
        if rule and "matching regex" in message:
            message = f"must be {rule}"
        yield _as_problem(message, where, key, data, _choices(kind))


def _rule(kind: Any) -> str:
    """What a pattern in `kind` allows, as its `description` says it; empty without one."""
    if isinstance(kind, msgspec.Meta):
        return kind.description or ""
    parts = (*getattr(kind, "__metadata__", ()), *get_args(kind))
    return next((found for part in parts if (found := _rule(part))), "")


def _add(choices: tuple[str, ...]) -> str:
    return f"add it, one of {', '.join(choices)}" if choices else "add it"


def _as_problem(message: str, where: str, key: Path_, value: object = None, choices: tuple[str, ...] = ()) -> Problem:
    """An error message of msgspec or of a `__post_init__` as a Problem."""
    what, _, remedy = message.partition(" - at `")[0].partition("; ")
    what = _BOUND.sub(lambda bound: f"must be {_BOUND_WORDS[bound[1]]} {bound[2]}", what)
    got = f" (got {shown(value)})" if isinstance(value, str | int | float) else ""
    if choices and not remedy:
        remedy = f"one of {', '.join(choices)}"
    return Problem(where, what + got, remedy or "correct the value", ".".join(key) or None)


def _record_in(kind: Any) -> type[Spec] | None:
    """The record type in `kind`, which may be optional, a list or a table of it; None for plain values."""
    if isinstance(kind, type) and issubclass(kind, Spec):
        return kind
    return next((found for part in get_args(kind) if (found := _record_in(part)) is not None), None)


def _holds(kind: Any, container: type) -> bool:
    """Whether `kind`, or a member of its union, is a table (dict) or a list (tuple) of records."""
    origin = get_origin(kind)
    if origin in (Union, UnionType, Annotated):
        return any(_holds(part, container) for part in get_args(kind))
    return origin is container


def _choices(kind: Any) -> tuple[str, ...]:
    """The allowed values of a bool or a Literal; empty for other types."""
    if kind is bool:
        return ("true", "false")
    if get_origin(kind) is Literal:
        return tuple(str(choice) for choice in get_args(kind))
    return tuple(choice for part in get_args(kind) for choice in _choices(part))
