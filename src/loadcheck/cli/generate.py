"""`loadcheck generate`: an answer of the trained model, without a server."""

from __future__ import annotations

from pathlib import Path

import click

from loadcheck.cli.options import PATH, json_option
from loadcheck.cli.output import print_json
from loadcheck.errors import EXIT_PASS, BadInput, Problem, printable_lines
from loadcheck.exporting.answering import generate
from loadcheck.specs.profile import MAX_COUNT


@click.command("generate", short_help="Answer one prompt with an export or a training.")
@click.argument("source", metavar="DIR|RUN", type=PATH)
@click.option("--prompt", required=True, help="The prompt; the template makes it the user's turn.")
@click.option(
    "--max-new-tokens",
    type=click.IntRange(1, MAX_COUNT),
    default=256,
    show_default=True,
    help="Longest answer, in tokens.",
)
@json_option
def command(source: Path, prompt: str, max_new_tokens: int, as_json: bool) -> int:
    """Answer with plain transformers and peft, on a GPU or the CPU: greedy decoding, printed word by word.

    DIR is an export, whose files are checked first; RUN is a completed training.

    Exit codes: 0 answered, 1 the model failed, 2 bad input, 3 this machine cannot.
    """
    if not prompt.strip():
        raise BadInput(Problem("command line", "is empty", "give a prompt", "--prompt"))

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
