"""The lines that our own engines print among the libraries' output, one JSON object each.

They make a raw log complete: it also holds what vLLM and unsloth do not print (exact bytes, the answer, the losses). A line is read field
by field, so that one bad field, or one of another version, does not lose the others.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, reduce
from operator import or_
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

import msgspec
from msgspec import Meta, UnsetType, structs

from loadcheck.logs.event import Event, nullable, to_data
from loadcheck.logs.events import KINDS

PREFIX = "loadcheck: "
EVENT_ANCHOR = PREFIX + "{"


@dataclass(frozen=True, slots=True)
class Fault:
    """A field of an event with an invalid value. In the record it is None. An empty field stands for the whole line."""

    field: str
    value: object
    wanted: str


@dataclass(frozen=True, slots=True)
class LoggedEvent:
    """An event as read from a log.

    Attributes:
        line: number of the line, from 1.
        data: the whole JSON object, including keys that its record has no field for.
        event: None for an event that this version does not know.
    """

    line: int
    data: Mapping[str, Any]
    event: Event | None = None
    faults: tuple[Fault, ...] = ()

    @property
    def name(self) -> str:
        return str(self.data["event"])


def format_event(event: Event) -> str:
    """The event as one line of ASCII, so that no terminal code or line break in a value can forge another line."""
    return PREFIX + json.dumps(to_data(event), ensure_ascii=True, allow_nan=False)


def find_event(line: str) -> Event | None:
    """The event on a line; None if there is none, or none that is known."""
    data = split_event(line)[1]
    return None if data is None else read_event(0, data).event


def split_event(line: str) -> tuple[str, dict[str, Any] | None, str]:
    """The text before a line's event, the event's data, and the text after it; the data is None if no event follows PREFIX."""
    before, _, text = line.partition(PREFIX)
    data, end = _decode(text)
    return before, data, text[end:]


_BEGINS = re.compile(re.escape(EVENT_ANCHOR) + r'"event": "(\w{1,40})"', re.ASCII)


def damaged_event(line: int, text: str) -> LoggedEvent | None:
    """The fault of a line that begins like an event of `format_event` but does not hold one; None for any other line."""
    match = _BEGINS.match(text)
    return (
        None
        if match is None
        else LoggedEvent(line, {"event": match[1]}, None, (Fault("", text, "one whole JSON object"),))
    )


def _decode(text: str) -> tuple[dict[str, Any] | None, int]:
    """The event that `text` begins with, and where it ends. NaN and infinity are not JSON."""
    try:
        data, end = json.JSONDecoder(parse_constant=_refuse).raw_decode(text)
    except (ValueError, RecursionError):
        return None, 0
    is_event = isinstance(data, dict) and isinstance(data.get("event"), str)
    return (data, end) if is_event else (None, 0)


def _refuse(constant: str) -> Any:
    raise ValueError(constant)


def read_event(line: int, data: Mapping[str, Any], kinds: Mapping[str, type[Event]] = KINDS) -> LoggedEvent:
    """The record of an event's data with its valid fields, and a fault for each invalid one."""
    kind: Any = kinds.get(data["event"])
    if kind is None:
        return LoggedEvent(line, data)
    types, faults = _types(kind), []
    values: dict[str, Any] = dict.fromkeys(types)
    for name, value in data.items():
        if name not in types:
            continue
        try:
            values[name] = msgspec.convert(value, types[name])
        except msgspec.ValidationError:
            faults.append(Fault(name, value, " or ".join(_words(types[name]))))
    return LoggedEvent(line, data, kind(**values), tuple(faults))


@cache
def _types(event_type: type[Event]) -> dict[str, Any]:
    """The type of each field in a log: fields that are always written may be null, those that are left out otherwise may not."""
    may_be_null = nullable(event_type)
    return {
        field.name: field.type if field.name in may_be_null else _without_none(field.type)
        for field in structs.fields(event_type)
    }


def _without_none(kind: Any) -> Any:
    return reduce(or_, (part for part in get_args(kind) if part is not NoneType))


def _words(kind: Any) -> Iterator[str]:
    """What a field must be, in words."""
    if get_origin(kind) in (Union, UnionType):
        for part in get_args(kind):
            yield from _words(part)
    elif kind is not UnsetType:
        described = (part.description for part in get_args(kind) if isinstance(part, Meta) and part.description)
        yield next(described, _WORDS.get(kind, "a value of its type"))


_WORDS = {str: "text", bool: "true or false", NoneType: "null"}
