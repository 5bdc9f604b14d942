"""--config FILE, for the commands that train or predict a training: another tool's config, which flags override."""

from __future__ import annotations

from functools import wraps
from pathlib import Path
from typing import Any

import click

from loadcheck.cli.options import PATH, Command
from loadcheck.terminal import console, print_words


def config_option(command: Command) -> Command:
    """Fill the flags that are not given from --config FILE, and report what of it is used and what is not."""

    @click.option(
        "--config", type=PATH, metavar="FILE",
        help="YAML config of unsloth, axolotl, LLaMA-Factory or TRL; flags override it.",
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
    print_words(out, f"{path} is a config of {found.kind}; used: {', '.join(found.used)}")
    if found.assumed:
        said = ", ".join(f"{name} {found.settings[name]}" for name in found.assumed)
        print_words(out, f"Not in it, so the defaults of {found.kind}: {said}")
    if found.ignored:
        print_words(out, f"Note: not used: {'; '.join(found.ignored)}")
    for differs in found.differs:
        print_words(out, f"Note: {differs}")
    if no_flag:
        print_words(out, f"Note: this command does not use {', '.join(no_flag)}")
    return {name: found.settings.get(name) if value is None else value for name, value in flags.items()}
