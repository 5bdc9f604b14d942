"""What an event is: a record with a name and typed, bounded fields; and how it is written.

A record is one JSON object on a line of the log (logs/event_lines.py): the event's name, its time, then its fields in the order of their
declaration. A field without a default is always written, as null if it has no value; a field whose default is None is left out
then. When a log is read, both become None, as do fields that an older version did not write.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, TypeVar

from msgspec import UNSET, Meta, Struct, structs

from loadcheck.figures import MAX_NUMBER

Count = Annotated[int, Meta(ge=0, le=MAX_NUMBER - 1, description="a whole number, not below 0")]
Bytes = Count
Seconds = Annotated[float, Meta(ge=0, lt=MAX_NUMBER, description="seconds, not below 0")]
Number = Annotated[float, Meta(gt=-MAX_NUMBER, lt=MAX_NUMBER, description="a number")]
Versions = Annotated[dict[str, str], Meta(min_length=1, description="a version by package")]
Capability = Annotated[str, Meta(pattern=r"\A[0-9]{1,2}\.[0-9]\Z", description="a compute capability such as 9.0")]


class Event(Struct, frozen=True, kw_only=True, tag_field="event"):
    """The base of all events.

    Attributes:
        at_s: seconds since the process began its work (stacks/recorder.py); each of a run's two processes counts from its own start.
        last: fields that are written after all others.
    """

    last: ClassVar[tuple[str, ...]] = ()
    at_s: Seconds | None = None


EventT = TypeVar("EventT", bound=Event)


def name_of(event_type: type[Event]) -> str:
    """The event's name in a log."""
    return str(event_type.__struct_config__.tag)


def to_data(event: Event) -> dict[str, object]:
    """The event as it is written, its name first. Values stay as given: a package's version may be its own subclass of str."""
    may_be_null = nullable(type(event))
    given = {name: value for name, value in structs.asdict(event).items() if value is not UNSET}
    data = {name: value for name, value in given.items() if value is not None or name in may_be_null}
    last = {name: data.pop(name) for name in event.last if name in data}
    return {"event": name_of(type(event))} | data | last


def nullable(event_type: type[Event]) -> frozenset[str]:
    """The fields that are written as null if they have no value; all others are left out then."""
    return frozenset(field.name for field in structs.fields(event_type) if field.required or field.default is UNSET)
