"""`loadcheck generate`: an answer of what was trained, where there is no server."""

from __future__ import annotations

from pathlib import Path

import click

from loadcheck.cli.options import json_option
from loadcheck.cli.output import print_json
from loadcheck.errors import EXIT_PASS, BadInput, Problem, printable_lines
from loadcheck.exporting.answering import generate
from loadcheck.specs.profile import MAX_COUNT


@click.command("generate", short_help="Ask an export or a training one question, on this machine.")
@click.argument("source", metavar="DIR|RUN", type=click.Path(path_type=Path))
@click.option("--prompt", required=True, help="What is asked; it goes through the template as the user's turn.")
@click.option(
    "--max-new-tokens", type=click.IntRange(1, MAX_COUNT), default=256, show_default=True, help="Length of the answer."
)
@json_option
def command(source: Path, prompt: str, max_new_tokens: int, as_json: bool) -> int:
    """Answer with plain transformers and peft, on a GPU or on the CPU: greedily, word by word as it comes.

    DIR is an export, whose files are checked before; RUN a training that came to its end.
    """
    if not prompt.strip():
        raise BadInput(Problem("command line", "is empty", "ask something", "--prompt"))

    def show(text: str) -> None:
        if not as_json:
            click.echo(printable_lines(text), nl=False)

    said = generate(source, prompt, max_new_tokens, show)
    if as_json:
        print_json({"source": str(source), "prompt": prompt, **said})
        return EXIT_PASS
    click.echo()
    speed = f"{said['num_new_tokens'] / said['generate_s']:.1f} tokens/s" if said["generate_s"] else "at once"
    cut = "" if said["ended"] else f"; cut at --max-new-tokens {max_new_tokens}"
    click.echo(f"{said['num_new_tokens']} tokens, {speed} on the {said['device']}{cut}", err=True)
    return EXIT_PASS
