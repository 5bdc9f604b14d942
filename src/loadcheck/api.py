"""loadcheck as a library: predict a load, find settings that fit, read a log, judge a log or a run folder.

Everything here works without a GPU, a network or the stack; nothing imports torch. Errors are those of `loadcheck.errors`: BadInput
for wrong files, keys, names or types of arguments, with one problem for each.

    from loadcheck.api import fit, judge, parse_log, predict

    prediction = predict(gpu="T4", settings={"max_seq_length": 2048})
    prediction.fits, prediction.figures.weights_bytes

    verdict = judge("load.log")
    verdict.status, [finding.why for finding in verdict.failures()]
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from inspect import signature
from os import PathLike, fsencode, fspath
from pathlib import Path
from types import UnionType
from typing import Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

from loadcheck.checking import gather
from loadcheck.comparing import Comparison, read_subject
from loadcheck.comparing import compare as _compare
from loadcheck.device import ram_available_bytes as present_ram_bytes
from loadcheck.errors import BadInput, LoadcheckError, Problem, suggestion
from loadcheck.figures import Figures
from loadcheck.logs import ParsedLog
from loadcheck.logs.text import rereadable
from loadcheck.predict import Card, Case, Prediction
from loadcheck.predict.card import card_from_table, described_problems
from loadcheck.predict.fit import GOALS, Fit, Goal
from loadcheck.predict.fit import fit as _fit
from loadcheck.specs.profile import load_profile
from loadcheck.specs.trouble import failure_words
from loadcheck.stacks import case_of, stack_of
from loadcheck.stacks import parse_log as _parse_log
from loadcheck.stacks import predict as _predict
from loadcheck.verdict import Verdict
from loadcheck.verdict import judge as _judge

__all__ = [
    "REFERENCE", "BadInput", "Card", "Comparison", "Figures", "Fit", "Goal", "LoadcheckError", "ParsedLog", "Prediction", "Problem", "Settings", "Verdict",
    "compare", "fit", "judge", "parse_log", "predict",
]  # fmt: skip

REFERENCE = "llama31-8b-instruct-4bit"
"""The default profile: Llama 3.1 8B Instruct in 4-bit with vLLM."""

Settings = Mapping[str, Any]
"""Keys of a profile that differ from it, nested ones with a dot: {"max_seq_length": 2048, "adapters.r": 16}."""


Parameters = ParamSpec("Parameters")
Returned = TypeVar("Returned")
_WORDS = {
    str: "a string",
    int: "an int",
    float: "a float",
    PathLike: "a path",
    Mapping: "a dict",
    Card: "a Card",
    type(None): "None",
}


def _checked(function: Callable[Parameters, Returned]) -> Callable[Parameters, Returned]:
    """The function, with BadInput for each argument that is of another type than it is declared with."""
    parameters, hints = signature(function), get_type_hints(function)

    @wraps(function)
    def checked(*given: Parameters.args, **named: Parameters.kwargs) -> Returned:
        arguments = parameters.bind(*given, **named).arguments
        _refuse_types("", arguments, hints)
        return function(*given, **named)

    return checked


def _refuse_types(owner: str, values: Mapping[str, object], hints: Mapping[str, Any]) -> None:
    """BadInput for each value that is not of the type of its hint."""
    problems = [
        Problem(
            owner + name, f"is of type {type(value).__name__}", f"give {' or '.join(_WORDS[kind] for kind in kinds)}"
        )
        for name, value in values.items()
        if not _is_one_of(value, kinds := _kinds(hints[name]))
    ]
    if problems:
        raise BadInput(problems)


def _kinds(hint: Any) -> tuple[type, ...]:
    """The classes of a hint such as `str | PathLike[str] | None`; a Literal's values are strings."""
    if get_origin(hint) in (Union, UnionType):
        return tuple(kind for part in get_args(hint) for kind in _kinds(part))
    return (str if get_origin(hint) is Literal else get_origin(hint) or hint,)


def _is_one_of(value: object, kinds: tuple[type, ...]) -> bool:
    """Whether the value is of one of these classes: an int is a float, too, but True is neither, and a path has no bytes."""
    if isinstance(value, bool):
        return False
    if isinstance(value, PathLike) and not isinstance(fspath(value), str):
        return False
    return isinstance(value, (*kinds, int) if float in kinds else kinds)


def _plain(settings: Settings | None) -> dict[str, Any]:
    """The settings as a profile's file would hold them; a path is its text. BadInput for a key or a value that none can hold."""
    return {_key(key): _value(value) for key, value in (settings or {}).items()}


def _value(value: object) -> object:
    if isinstance(value, Mapping):
        return _plain(value)
    if isinstance(value, list | tuple | set | frozenset):
        return [_value(item) for item in value]
    if isinstance(value, PathLike):
        return _value(fspath(value))
    if value is None or isinstance(value, str | int | float):
        return value
    what = f"hold a value of type {type(value).__name__}"
    raise BadInput(Problem("settings", what, "give strings, numbers, booleans, lists or dicts"))


def _key(key: object) -> str:
    if isinstance(key, str):
        return key
    raise BadInput(
        Problem("settings", f"have a key of type {type(key).__name__}", "give keys of a profile, as strings")
    )


@_checked
def predict(
    profile: str | PathLike[str] = REFERENCE,
    *,
    gpu: str | Card,
    settings: Settings | None = None,
    ram_available_bytes: int | None = None,
) -> Prediction:
    """Every figure that this load's log will print, whether the load fits, and if not, why.

    Args:
        profile: a name of env/profiles, or a path that ends in .toml.
        gpu: a name of env/gpus.toml such as "T4", or a Card with its own bytes.
        settings: keys of the profile to change; see Settings.
        ram_available_bytes: of the host, which decides the swap space; None takes this machine's.

    Returns:
        The prediction; `figures` are in bytes, `to_json()` is what `loadcheck predict --json` prints of it.

    Raises:
        BadInput: an unknown name, a setting that is wrong, a Card that cannot be, or a profile that loads without vLLM, whose memory depends
            on no card.
    """
    return _predict(_case(profile, settings, gpu, ram_available_bytes))


@_checked
def fit(
    profile: str | PathLike[str] = REFERENCE,
    *,
    gpu: str | Card,
    goal: Goal = "length",
    settings: Settings | None = None,
    ram_available_bytes: int | None = None,
) -> Fit:
    """The settings with which this model fits this card, best first.

    Args:
        goal: what to maximize: "length" (tokens of a request), "concurrency" (requests) or "training" (free memory).
        settings: keys of the profile to change; they are kept, the others are searched. The rest as for `predict`.

    Raises:
        BadInput: as `predict`, and an unknown goal.
    """
    if goal not in GOALS:
        raise BadInput(Problem("goal", f"there is no goal {goal!r}", suggestion(str(goal), GOALS)))
    case = _case(profile, settings, gpu, ram_available_bytes)
    return _fit(stack_of(case.profile), case, goal, frozenset(settings or {}))


@_checked
def parse_log(path: str | PathLike[str]) -> ParsedLog:
    """Every figure of a load log, attempt by attempt, with the line that states it.

    Raises:
        BadInput: the file cannot be read, or holds no line that a load prints.
    """
    with rereadable(_path(path)) as file:
        return _parse_log(file, failure_words())


@_checked
def judge(
    target: str | PathLike[str],
    *,
    profile: str | PathLike[str] | None = None,
    gpu: str | None = None,
    settings: Settings | None = None,
) -> Verdict:
    """The verdict on a log or a run folder: "pass", "fail", "refused" or "skipped", with every finding.

    Args:
        target: a log, or a run folder, which states its settings itself.
        profile, gpu, settings: what a log does not state: its profile, its card, the settings that differ from the profile.

    Raises:
        BadInput: the target is neither, or contradicts these arguments.
    """
    with rereadable(_path(target)) as file:
        return _judge(gather(file, None if profile is None else fspath(profile), gpu, overrides=_plain(settings)))


@_checked
def compare(a: str | PathLike[str], b: str | PathLike[str]) -> Comparison:
    """What differs between two loads, each figure that moved by the changes that moved it.

    Args:
        a, b: a run folder, a log, or the document of `loadcheck predict --json` in a file that ends in .json.

    Returns:
        The comparison; `same` is whether no figure moved and both ended alike; memory is in bytes.

    Raises:
        BadInput: a path that is none of these.
    """
    return _compare(read_subject(_path(a)), read_subject(_path(b)))


def _path(path: str | PathLike[str]) -> Path:
    """The path; BadInput for one that no file can have, which the operating system's functions refuse with a ValueError."""
    text = fspath(path)
    if "\0" in text:
        raise BadInput(Problem(repr(text), "holds a null character", "check the path"))
    try:
        fsencode(text)
    except UnicodeEncodeError as error:
        raise BadInput(Problem(repr(text), f"cannot be a path ({error.reason})", "check the path")) from None
    return Path(text)


def _case(
    name: str | PathLike[str], settings: Settings | None, gpu: str | Card, ram_available_bytes: int | None
) -> Case:
    profile = load_profile(fspath(name), _plain(settings))
    if not profile.has_budget:
        what = "loads without vLLM, so its memory depends on no card"
        raise BadInput(
            Problem(f"profile {profile.name}", what, "use a profile with engine = 'gpu' and fast_inference = true")
        )
    card = _possible(gpu) if isinstance(gpu, Card) else card_from_table(gpu)
    ram_bytes = present_ram_bytes() if ram_available_bytes is None else ram_available_bytes
    if ram_bytes < 0:
        raise BadInput(Problem("ram_available_bytes", f"{ram_bytes} is not a number of bytes", "give bytes"))
    return case_of(profile, card, ram_bytes)


def _possible(card: Card) -> Card:
    """The card; BadInput if its numbers cannot be those of a card."""
    hints = get_type_hints(Card)
    _refuse_types("Card.", {name: getattr(card, name) for name in hints}, hints)
    problems = described_problems(card.total_bytes, card.free_bytes, f"{card.compute_capability:.1f}")
    if problems:
        raise BadInput(problems)
    return card
