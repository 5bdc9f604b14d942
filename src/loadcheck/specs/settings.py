"""What a setting of a profile is called on the command line, and what it does: written once, beside the setting itself.

A field of a record carries its `Setting` in its annotation; options, flags and remedies are derived from it.
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
    """How one key of a record is set by a flag.

    Attributes:
        help: of the flag.
        flag: such as "--lora-r"; empty for the key's own name. A switch has two: "--on/--off".
        moves_memory: whether the memory of a load depends on it, so that it is among the flags that make one load of another.
        only_load: whether it is a flag of `load` alone, and not of the commands that predict.
        of_engine: whether a load without an inference engine takes no notice of it.
        argument: what the engine itself calls it, where it takes the value as it is, and the default is its own; another value is handed on.
        figure: the attribute of the log's figure that says, as Python prints it, what the engine was asked for.
        words: what is said of a load that has it on, or otherwise than by default.
        costs: what a user loses by a switch that frees memory. A switch that says so is tried where memory is short, after all else.
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
        key: dotted, of the record.
        name: the flag itself, without the other one of a switch.
        off: the other one of a switch; None for a flag that takes a value.
        kind: the type of the value: bool, int, float, str or tuple.
        choices: the words that it may be; empty where it is no choice of words.
    """

    key: str
    name: str
    off: str | None
    kind: type
    choices: tuple[str, ...]
    setting: Setting

    @property
    def parameter(self) -> str:
        """The flag as a name of Python."""
        return self.name.removeprefix("--").replace("-", "_")

    def set_to(self, value: Any) -> str:
        """The flag that gives the setting this value, quoted for a shell."""
        if self.off is not None:
            return self.name if value else self.off
        text = ",".join(value) if isinstance(value, list | tuple) else str(value)
        return f"{self.name} {shlex.quote(text)}"


@cache
def settings_of(record: type[Any]) -> tuple[Flag, ...]:
    """Every setting of a record and of its tables, in the order of their fields."""
    return tuple(_settings(record, ""))


def _settings(record: type[Any], prefix: str) -> Iterator[Flag]:
    for name, kind in get_type_hints(record, include_extras=True).items():
        table = next(
            (part for part in (kind, *get_args(kind)) if isinstance(part, type) and issubclass(part, Spec)), None
        )
        if table is not None:
            yield from _settings(table, f"{prefix}{name}.")
        for setting in getattr(kind, "__metadata__", ()):
            if isinstance(setting, Setting):
                on, _, off = (setting.flag or "--" + name.replace("_", "-")).partition("/")
                yield Flag(prefix + name, on, off or None, *_plain(kind), setting)


def _plain(kind: Any) -> tuple[type, tuple[str, ...]]:
    """The type of the values that a flag may have (text where there are several), and its words where it is a choice of them."""
    if get_origin(kind) is Annotated:
        return _plain(get_args(kind)[0])
    if type(None) in get_args(kind) and len(get_args(kind)) == 2:  # without the flag it is None
        return _plain(next(part for part in get_args(kind) if part is not type(None)))
    origin = get_origin(kind) or kind
    return (origin if origin in (bool, int, float, tuple) else str), (get_args(kind) if origin is Literal else ())


def handed_on(record: Spec) -> dict[str, Any]:
    """What an engine is asked for by its own names, of the settings that it takes as they are: those that are not the default."""
    return {
        flag.setting.argument: getattr(record, flag.key) for flag in _not_by_default(record) if flag.setting.argument
    }


def words_of(record: Spec) -> list[str]:
    """What is said of a load for the settings that it has otherwise than by default."""
    return [flag.setting.words for flag in _not_by_default(record) if flag.setting.words]


def _not_by_default(record: Spec) -> Iterator[Flag]:
    kind: Any = type(record)
    defaults = {field.name: field.default for field in structs.fields(kind)}
    yield from (
        flag for flag in settings_of(kind) if flag.key in defaults and getattr(record, flag.key) != defaults[flag.key]
    )


def figures_of_settings(record: Spec) -> dict[str, str]:
    """What a log says, by figure, of an engine that was asked for these settings."""
    kind: Any = type(record)
    return {flag.setting.figure: str(getattr(record, flag.key)) for flag in settings_of(kind) if flag.setting.figure}


def switched_on(record: SpecT) -> Iterator[tuple[str, SpecT]]:
    """The record with each switch on that frees memory and is off, and what is said of it."""
    kind: Any = type(record)
    for flag in settings_of(kind):
        if flag.setting.costs and not getattr(record, flag.key):
            yield flag.setting.words, changed(record, {flag.key: True})


def flags(record: Spec, base: Spec) -> str:
    """The flags that turn `base` into `record`, of the settings that move memory, quoted for a shell; switches last."""
    before, after = flat(base), flat(record)
    kind: Any = type(record)
    differ = [
        flag
        for flag in settings_of(kind)
        if flag.setting.moves_memory
        and flag.key in before
        and flag.key in after
        and before[flag.key] != after[flag.key]
    ]
    return " ".join(flag.set_to(after[flag.key]) for flag in sorted(differ, key=lambda flag: flag.off is not None))


def load_command(record: Spec, base: Spec, name: str) -> str:
    """The whole command that loads `record`, where `name` is what `base` is loaded by: env/profiles' name or a file."""
    return f"loadcheck load {shlex.quote(name)} {flags(record, base)}".rstrip()
