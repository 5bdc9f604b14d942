"""Converts a config to our flags: the keys that are used, its tool's defaults for missing ones, and the keys that are ignored."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loadcheck.configs.kinds import KINDS, LLAMA_FACTORY, OFF, Kind
from loadcheck.configs.yaml_file import read_yaml
from loadcheck.errors import BadInput, Problem
from loadcheck.specs.files import shown
from loadcheck.specs.profile import LINEAR_MODULES

INTS = (
    "max_seq_length", "per_device_train_batch_size", "gradient_accumulation_steps", "warmup_steps", "max_steps", "save_steps", "seed",
    "lora_r", "lora_alpha", "num_generations", "max_prompt_length", "max_completion_length",
)  # fmt: skip
FLOATS = ("learning_rate", "warmup_ratio", "weight_decay", "num_train_epochs", "lora_dropout")
BOOLS = ("fast_inference", "all_linear", "no_gradient_checkpointing", "packing", "pads_to_length")
NONE_IF_BELOW_1 = ("max_steps", "save_steps")
"""Settings for which tools write 0 or -1 to mean none."""
OPTIMIZERS = {"paged_adamw": "paged_adamw_32bit"}
CHECKPOINTING = {
    True: "true",
    False: "false",
    "true": "true",
    "false": "false",
    "unsloth": "unsloth",
    "offload": "unsloth",
}


@dataclass(slots=True)
class Config:
    """A converted config.

    Attributes:
        settings: by the parameter of our flag, with the value that the flag would have.
        used: the file's keys that they come from.
        assumed: parameters that the file leaves out, with its tool's own values.
        ignored: keys, with their values, that have no setting here.
        differs: how something that is used differs from its tool.
    """

    path: Path
    kind: str
    settings: dict[str, Any] = field(default_factory=dict)
    used: list[str] = field(default_factory=list)
    assumed: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    differs: list[str] = field(default_factory=list)


def read_config(path: Path, given: Collection[str] = ()) -> Config:
    """Convert a config to our flags.

    Args:
        given: parameters whose flags were given, and which take precedence.

    Raises:
        BadInput: a file of an unknown kind, a value of the wrong type, or a setting that would make it a different training than the one
            predicted here; every problem at once.
    """
    data = read_yaml(path)
    kind = _kind_of(path, data)
    problems = [*_refused(path, kind, data), *(_isolating(path, kind, data) if "packing" not in given else ())]
    config = Config(path, kind.name)
    for key, value in data.items():
        problems += _store(config, kind, key, value)
    if problems:
        raise BadInput(problems)
    _assume(config, kind)
    _derive(config)
    if config.settings.get("packing") and "packing" not in given:
        config.differs.append(kind.packing_note)
    return config


def _kind_of(path: Path, data: dict[str, Any]) -> Kind:
    """Whose config it is; BadInput if nobody's."""
    for kind in KINDS:
        if _is_of(kind, data):
            return kind
    names = ", ".join(kind.name for kind in KINDS)
    what = f"has no key of a config of {names}"
    raise BadInput(Problem(str(path), what, "give a config of one of these", "--config"))


def _is_of(kind: Kind, data: dict[str, Any]) -> bool:
    """Whether it has an identifying key; a key that several kinds share counts for the first of them."""
    return any(key in data for key in kind.identified_by)


def _refused(path: Path, kind: Kind, data: dict[str, Any]) -> Iterator[Problem]:
    for key, harmless in kind.refused.items():
        value = data.get(key)
        if value not in harmless:
            what = "is missing" if value is None else f"is {shown(value)}"
            yield Problem(
                str(path), f"{what}, which is a different training than the one predicted here", _remedy(harmless), key
            )


def _isolating(path: Path, kind: Kind, data: dict[str, Any]) -> Iterator[Problem]:
    """Settings that separate the examples of a packed row. LLaMA-Factory's neat_packing implies packing (hparams/parser.py)."""
    packs = next(key for key, parameter in kind.parameters.items() if parameter == "packing")
    if not (data.get(packs) or data.get("neat_packing")):
        return
    for key, harmless in kind.isolates.items():
        if (value := data.get(key)) not in harmless:
            what = f"is {shown(value)}, which separates the examples of a packed row, and is a different training"
            yield Problem(str(path), what, "give --packing to let them attend to each other, or --no-packing", key)


def _remedy(harmless: tuple[Any, ...]) -> str:
    words = [str(value) for value in harmless if value not in OFF]
    return f"set it to {' or '.join(words)}" if words else "leave it out"


def _store(config: Config, kind: Kind, key: str, value: Any) -> list[Problem]:
    """Store one key's value as our parameter; returns the problems with its value."""
    parameter = kind.parameters.get(key)
    if _is_unset(parameter, value):
        return []
    if parameter is None:
        return _ignore(config, kind, key, value)
    try:
        converted = _value(parameter, value, config.path)
    except (TypeError, ValueError) as error:
        return [Problem(str(config.path), f"{error} (got {shown(value)})", "correct the value", key)]
    if converted is not None:
        config.settings[parameter] = converted
        config.used.append(key)
    elif parameter == "data":
        config.ignored.append(f"{key}: {shown(value)}, which is not a file here")
    return []


def _is_unset(parameter: str | None, value: Any) -> bool:
    """Whether a value stands for none: null, an empty text, or an empty list or table where one is no value of its own."""
    if value in (None, ""):
        return True
    return (value == [] and parameter in (None, *LISTS)) or (value == {} and parameter is None)


def _ignore(config: Config, kind: Kind, key: str, value: Any) -> list[Problem]:
    """Note a key that has no parameter of ours; returns a problem if it makes a table of a parameter."""
    table = next((name for name in kind.parameters if key.startswith(f"{name}.")), None)
    if table is not None:
        return [Problem(str(config.path), "is a table, and must be one value", "correct the value", table)]
    if key not in kind.refused and value not in kind.isolates.get(key, ()):
        config.ignored.append(f"{key}: {shown(value)}")
    return []


def _value(parameter: str, value: Any, path: Path) -> Any:
    """The value as a flag would have it; None where it has no effect. ValueError or TypeError for an invalid one."""
    if parameter in BOOLS:
        return _bool(value)
    if parameter in INTS:
        number = _int(value)
        return None if parameter in NONE_IF_BELOW_1 and number < 1 else number
    if parameter in FLOATS:
        return _float(value)
    return _OTHERS[parameter](value, path) if parameter in _OTHERS else _text(value)


def _bool(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def _int(value: Any) -> int:
    try:
        number = float(value)  # YAML reads "1e3" as a string
        if isinstance(value, bool) or number != int(number):
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise ValueError("must be a whole number") from None
    return int(number)


def _float(value: Any) -> float:
    try:
        number = float(value)
        if isinstance(value, bool) or not math.isfinite(number):
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise ValueError("must be a number") from None
    return number


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("must be a string")
    return value


def _four_bits(value: Any, _path: Path) -> bool:
    """load_in_4bit, or LLaMA-Factory's quantization_bit."""
    if isinstance(value, bool):
        return value
    if value != 4:
        raise ValueError("must be 4, or left out")
    return True


def _targets(value: Any, _path: Path) -> str:
    names = value if isinstance(value, list) else _text(value).split(",")
    names = [_text(name).strip() for name in names]
    return ",".join(LINEAR_MODULES if names in (["all"], ["all-linear"]) else names)


def _checkpointing(value: Any, _path: Path) -> str:
    if value not in CHECKPOINTING:
        raise ValueError("must be true, false or unsloth")
    return CHECKPOINTING[value]


def _data(value: Any, path: Path) -> Path | None:
    """A file beside the config or in the working directory, also as axolotl's list of one; None for a name on the hub."""
    found = value[0] if isinstance(value, list) and len(value) == 1 else value
    found = found.get("path") if isinstance(found, dict) else found
    if not isinstance(found, str):
        return None
    return next((candidate for candidate in (path.parent / found, Path(found)) if candidate.is_file()), None)


LISTS = ("target_modules", "data")
"""Parameters that are lists in some tool; an empty one is not set."""
_OTHERS: dict[str, Callable[[Any, Path], Any]] = {
    "load_in_4bit": _four_bits,
    "target_modules": _targets,
    "use_gradient_checkpointing": _checkpointing,
    "data": _data,
    "optim": lambda value, _: OPTIMIZERS.get(_text(value), _text(value)),
}


def _assume(config: Config, kind: Kind) -> None:
    """Fill in the tool's own defaults, where they are known."""
    for parameter, value in kind.defaults.items():
        if parameter not in config.settings and not (
            parameter == "target_modules" and config.settings.get("all_linear")
        ):
            config.settings[parameter] = _value(parameter, value, config.path)
            config.assumed.append(parameter)
    if kind is LLAMA_FACTORY and "lora_alpha" not in config.settings:  # hparams/finetuning_args.py: twice the rank
        config.settings["lora_alpha"] = 2 * config.settings["lora_r"]
        config.assumed.append("lora_alpha")


def _derive(config: Config) -> None:
    """Settings that follow from others: the method, whether vLLM is used, and the largest rank."""
    settings = config.settings
    if settings.pop("all_linear", False):
        settings["target_modules"] = ",".join(LINEAR_MODULES)
    if settings.pop("no_gradient_checkpointing", False):
        settings["use_gradient_checkpointing"] = "false"
    _pads(config)
    settings.setdefault("method", "grpo" if "num_generations" in settings else "sft")
    settings.setdefault("fast_inference", False)
    if "lora_r" in settings:
        settings["max_lora_rank"] = max(8, 1 << (settings["lora_r"] - 1).bit_length())


def _pads(config: Config) -> None:
    """Axolotl's pad_to_sequence_len: packing fills rows anyway; without packing, rows here are only padded to the longest of their batch."""
    key = "pad_to_sequence_len"
    pads = config.settings.pop("pads_to_length", None)
    if pads is not None and pads != config.settings.get("packing", False):
        config.used.remove(key)
        config.ignored.append(f"{key}: {pads}")
