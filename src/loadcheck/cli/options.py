"""Options that several commands share. Those of a profile's settings are derived from the settings themselves."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click

from loadcheck.errors import BadInput, Problem
from loadcheck.specs.files import Spec
from loadcheck.specs.profile import Profile
from loadcheck.specs.settings import Flag, settings_of
from loadcheck.units import parse_bytes

Command = TypeVar("Command", bound=Callable[..., Any])
PATH = click.Path(path_type=Path)

json_option = click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print one JSON document on stdout instead of tables; progress, warnings and errors go to stderr.",
)
PREDICTED_PROFILE = "llama31-8b-instruct-4bit"
"""The default of `predict` and `fit`: the reference profile, whatever this machine has."""
STEPS = "training.steps"
GPU_HELP = "A card of env/gpus.toml, such as T4 or H100."


class Bytes(click.ParamType):
    """A number of bytes, or of KiB, MiB or GiB with its unit."""

    name = "bytes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            return parse_bytes(str(value))
        except ValueError as error:
            self.fail(f"{error}; give bytes, or 24GiB", param, ctx)


def setting_option(flag: Flag) -> Callable[[Command], Command]:
    """The option of one setting of a profile; without it, the profile's value stays."""
    if flag.off is not None:
        return click.option(f"{flag.name}/{flag.off}", flag.parameter, default=None, help=flag.setting.help)
    kind = click.Choice(flag.choices) if flag.choices else {int: int, float: float}.get(flag.kind, str)
    return click.option(flag.name, type=kind, help=flag.setting.help)


def setting_options(wanted: Callable[[Flag], bool], record: type[Spec] = Profile) -> Callable[[Command], Command]:
    """The options of some settings of a record, in the order of its fields."""

    def decorate(command: Command) -> Command:
        for flag in reversed([flag for flag in settings_of(record) if wanted(flag)]):  # type: ignore[arg-type]  # __hash__ of a class
            command = setting_option(flag)(command)
        return command

    return decorate


profile_options = setting_options(lambda flag: not flag.setting.only_load and flag.key != STEPS)
"""For every command that takes a profile: the flags that a prediction depends on."""
train_steps_option = setting_options(lambda flag: flag.key == STEPS)


HERE = "the reference on a GPU, else the small model of the CPU"
"""The default of commands that load on this machine."""


def profile_argument(default: str, metavar: str | None = None) -> Callable[[Command], Command]:
    """PROFILE or --profile, as the one argument `profile`, for every command whose subject is a profile.

    Args:
        default: which one is taken without it, in words.
        metavar: what else the argument may be.
    """

    def decorate(command: Command) -> Command:
        @click.argument("profile", required=False, metavar=metavar)
        @click.option(
            "--profile", "named", metavar="PROFILE",
            help=f"The same as PROFILE: a name in env/profiles, or a .toml file.  [default: {default}]",
        )  # fmt: skip
        @wraps(command)
        def with_profile(*arguments: Any, profile: str | None, named: str | None, **flags: Any) -> Any:
            if profile and named and profile != named:
                raise BadInput(Problem("profile", f"{profile!r} and --profile {named!r} differ", "name one of them"))
            return command(*arguments, profile=profile or named, **flags)

        return with_profile  # type: ignore[return-value]  # click's command, with one option more

    return decorate


def card_options(command: Command) -> Command:
    """The flags that describe a card and its machine, for the commands that predict."""
    options = (
        click.option("--gpu", help=GPU_HELP + "  [default: this machine's GPU]"),
        click.option(
            "--gpu-total-bytes", type=Bytes(), help="The card's memory as CUDA reports it, in bytes or as 23.6GiB."
        ),
        click.option("--gpu-free-bytes", type=Bytes(), help="Free memory of the card right before the load."),
        click.option("--compute-capability", help="Compute capability of the card, such as 8.9."),
        click.option("--non-torch-bytes", type=Bytes(), help="What vLLM will count as non_torch, if you know it."),
        click.option(
            "--ram-available-bytes",
            type=Bytes(),
            help="Available RAM, which limits the swap space.  [default: this machine's]",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command
