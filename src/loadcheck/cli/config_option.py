"""--config FILE, for the commands that train or predict a training: a config that people already have, below the flags given."""

from __future__ import annotations

from functools import wraps
from pathlib import Path
from typing import Any

import click

from loadcheck.cli.options import Command
from loadcheck.terminal import console, print_words


def config_option(command: Command) -> Command:
    """Fill the flags that are not given from --config FILE, and say what of it was taken and what was not."""

    @click.option(
        "--config", type=click.Path(path_type=Path), metavar="FILE",
        help="A YAML of unsloth, axolotl, LLaMA-Factory or TRL; flags have the last word.",
    )  # fmt: skip
    @wraps(command)
    def with_config(*arguments: Any, config: Path | None, **flags: Any) -> Any:
        return command(*arguments, **(flags if config is None else _filled(config, flags)))

    return with_config  # type: ignore[return-value]  # click's command, with one option more


def _filled(path: Path, flags: dict[str, Any]) -> dict[str, Any]:
    from loadcheck.configs import read_config

    found = read_config(path, {name for name, value in flags.items() if value is not None})
    no_flag = [name for name in found.settings if name not in flags]
    out = console(stderr=True)
    print_words(out, f"{path} is {found.kind}'s; taken: {', '.join(found.taken)}")
    if found.assumed:
        said = ", ".join(f"{name} {found.settings[name]}" for name in found.assumed)
        print_words(out, f"Not in it, so as {found.kind} does: {said}")
    if found.not_taken:
        print_words(out, f"Note: nothing here reads {'; '.join(found.not_taken)}")
    for differs in found.differs:
        print_words(out, f"Note: {differs}")
    if no_flag:
        print_words(out, f"Note: this command has no use for {', '.join(no_flag)}")
    return {name: found.settings.get(name) if value is None else value for name, value in flags.items()}
