"""Metadata of a profile's settings: the flag, its help, and its effects, declared once beside the setting itself.

The annotation of a record's field holds its `Setting`; options, flags and remedies are derived from it.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from msgspec import structs

from loadcheck.specs.files import Spec, SpecT, changed, flat


@dataclass(frozen=True, slots=True)
class Setting:
    """The flag and the effects of one key of a record.

    Attributes:
        help: the flag's help text.
        flag: such as "--lora-r"; empty if derived from the key's name. A switch has two: "--on/--off".
        moves_memory: whether it changes a load's memory, so that proposed commands include it.
        only_load: whether it is a flag of `load` only, and not of the commands that predict.
        of_engine: whether a load without an inference engine ignores it.
        argument: the engine's name for it, if the engine takes the value unchanged and has the same default; other values are passed to it.
        figure: the attribute of the log's figure that states the value that the engine got, as Python prints it.
        words: the description of a load in which it is on, or is not the default.
        costs: what the user loses by a switch that frees memory; such a switch is tried last when memory is short.
    """

    help: str
    flag: str = ""
    moves_memory: bool = False
    only_load: bool = False
    of_engine: bool = False
    argument: str = ""
    figure: str = ""
    words: str = ""
    costs: str = ""


@dataclass(frozen=True, slots=True)
class Flag:
    """A setting with its place in the record.

    Attributes:
        key: its dotted key in the record.
        name: the flag itself; of a switch, the one that turns it on.
        off: the flag that turns a switch off; None for a flag that takes a value.
        kind: the type of the value: bool, int, float, str or tuple.
        choices: the allowed values of a Literal; otherwise empty.
    """

    key: str
    name: str
    off: str | None
    kind: type
    choices: tuple[str, ...]
    setting: Setting

    @property
    def parameter(self) -> str:
        """The flag as a Python identifier."""
        return self.name.removeprefix("--").replace("-", "_")

    def set_to(self, value: Any) -> str:
        """The flag that sets this value, quoted for a shell."""
        if self.off is not None:
            return self.name if value else self.off
        text = ",".join(value) if isinstance(value, list | tuple) else str(value)
        return f"{self.name} {shlex.quote(text)}"


@cache
def settings_of(record: type[Any]) -> tuple[Flag, ...]:
    """Every setting of a record and of its tables, in the order of their fields."""
    return tuple(_settings(record, ""))


def _settings(record: type[Any], prefix: str) -> Iterator[Flag]:
    for name, annotation in get_type_hints(record, include_extras=True).items():
        table = next(
            (part for part in (annotation, *get_args(annotation)) if isinstance(part, type) and issubclass(part, Spec)),
            None,
        )
        if table is not None:
            yield from _settings(table, f"{prefix}{name}.")
        for setting in getattr(annotation, "__metadata__", ()):
            if isinstance(setting, Setting):
                on, _, off = (setting.flag or "--" + name.replace("_", "-")).partition("/")
                yield Flag(prefix + name, on, off or None, *_plain(annotation), setting)


def _plain(annotation: Any) -> tuple[type, tuple[str, ...]]:
    """The type of a flag's value (str if several are allowed), and the choices of a Literal."""
    if get_origin(annotation) is Annotated:
        return _plain(get_args(annotation)[0])
    if type(None) in get_args(annotation) and len(get_args(annotation)) == 2:  # optional: None without the flag
        return _plain(next(part for part in get_args(annotation) if part is not type(None)))
    origin = get_origin(annotation) or annotation
    return (origin if origin in (bool, int, float, tuple) else str), (get_args(annotation) if origin is Literal else ())


def engine_arguments(record: Spec) -> dict[str, Any]:
    """The engine's own arguments for the settings that it takes unchanged and that are not the default."""
    return {
        flag.setting.argument: getattr(record, flag.key) for flag in _not_by_default(record) if flag.setting.argument
    }


def words_of(record: Spec) -> list[str]:
    """The descriptions of the settings that are not the default."""
    return [flag.setting.words for flag in _not_by_default(record) if flag.setting.words]


def _not_by_default(record: Spec) -> Iterator[Flag]:
    record_type: Any = type(record)
    defaults = {field.name: field.default for field in structs.fields(record_type)}
    yield from (
        flag
        for flag in settings_of(record_type)
        if flag.key in defaults and getattr(record, flag.key) != defaults[flag.key]
    )


def figures_of_settings(record: Spec) -> dict[str, str]:
    """The values, by figure, that a log of an engine with these settings states."""
    record_type: Any = type(record)
    return {
        flag.setting.figure: str(getattr(record, flag.key)) for flag in settings_of(record_type) if flag.setting.figure
    }


def switched_on(record: SpecT) -> Iterator[tuple[str, SpecT]]:
    """For each switch that frees memory and is off: its description, and the record with it on."""
    record_type: Any = type(record)
    for flag in settings_of(record_type):
        if flag.setting.costs and not getattr(record, flag.key):
            yield flag.setting.words, changed(record, {flag.key: True})


def flags(record: Spec, base: Spec) -> str:
    """The flags of settings that move memory which turn `base` into `record`, quoted for a shell; switches last."""
    before, after = flat(base), flat(record)
    record_type: Any = type(record)
    differ = [
        flag
        for flag in settings_of(record_type)
        if flag.setting.moves_memory
        and flag.key in before
        and flag.key in after
        and before[flag.key] != after[flag.key]
    ]
    return " ".join(flag.set_to(after[flag.key]) for flag in sorted(differ, key=lambda flag: flag.off is not None))


def load_command(record: Spec, base: Spec, name: str) -> str:
    """The whole command that loads `record`; `name` is the profile's name or file that loads `base`."""
    return f"loadcheck load {shlex.quote(name)} {flags(record, base)}".rstrip()
