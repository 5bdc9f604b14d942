"""The errors that end a command, as the problems to show and the exit code; an unknown flag with the one that was meant."""

from __future__ import annotations

from difflib import get_close_matches

import click

from loadcheck.errors import EXIT_BAD_INPUT, LoadcheckError, Problem, printable_lines, remedy_of

OTHER_WORDS = {"max_model_len": "max_seq_length", "lr": "learning_rate", "rank": "lora_r", "r": "lora_r"}
"""Names in vLLM, peft and common use of settings that have another name here."""


def ended_by(error: Exception) -> tuple[tuple[Problem, ...], int]:
    """The problems and the exit code of an error of ours, of a wrong command line, or of the operating system."""
    if isinstance(error, LoadcheckError):
        return error.problems, error.exit_code
    if isinstance(error, click.ClickException):
        return (_usage(error),), EXIT_BAD_INPUT
    assert isinstance(error, OSError)
    return (Problem(str(error.filename or "system"), str(error.strerror), remedy_of(error)),), EXIT_BAD_INPUT


def _usage(error: click.ClickException) -> Problem:
    context = error.ctx if isinstance(error, click.UsageError) else None
    if isinstance(error, click.NoSuchOption) and context is not None:
        error.message, error.possibilities = (
            f"No such option: {error.option_name}{_meant(error.option_name, context)}",
            None,
        )
    error.message = printable_lines(error.message)
    command = "loadcheck" if context is None else context.command_path
    return Problem("command line", error.format_message(), f"see {command} --help")


def _meant(flag: str, context: click.Context) -> str:
    """What to write instead of an unknown flag: the flag of the same meaning, or the commands that have this one, or a similar flag."""
    own = _flags(context.command)
    word = flag.removeprefix("--").replace("-", "_")
    same = _parameters_of_others().get(word, "")
    if same in own:
        return f"; did you mean {own[same]}?"
    others = [name for name, command in _commands(context.find_root()) if flag in _flags(command).values()]
    if others:
        return f"; it is a flag of {', '.join(others)}"
    names = {name.removeprefix("--"): name for name in own.values()}
    longer = [name for name in names if set(word.split("_")) <= set(name.split("-"))]
    close = longer or get_close_matches(word.replace("_", "-"), names, n=3)
    return f"; did you mean {' or '.join(names[name] for name in close)}?" if close else ""


def _flags(command: click.Command) -> dict[str, str]:
    """The flags of a command, by the name of their parameter."""
    return {str(option.name): option.opts[0] for option in command.params if isinstance(option, click.Option)}


def _commands(root: click.Context) -> list[tuple[str, click.Command]]:
    group = root.command
    if not isinstance(group, click.Group):
        return []
    found = ((name, group.get_command(root, name)) for name in group.list_commands(root))
    return [(name, command) for name, command in found if command is not None]


def _parameters_of_others() -> dict[str, str]:
    """Our parameter by the name that an engine or another tool's config has for it."""
    from loadcheck.configs.kinds import KINDS

    of_configs = {key.rpartition(".")[2]: name for kind in KINDS for key, name in kind.parameters.items()}
    return of_configs | OTHER_WORDS
