"""The flags of a training, for every command that predicts one."""

from __future__ import annotations

import click

from loadcheck.cli.options import Command, setting_options
from loadcheck.specs.training import OPTIMIZERS


def train_options(command: Command) -> Command:
    """The flags of a training, for every command that predicts; without --method none of them counts."""
    count = click.IntRange(min=1)
    options = (
        click.option("--method", type=click.Choice(["sft", "grpo"]), help="Predict a training of the adapters, too."),
        click.option(
            "--per-device-train-batch-size", type=count, help="Rows of a batch; in GRPO prompts.  [default: 1]"
        ),
        click.option("--gradient-accumulation-steps", type=count, help="Batches of an optimizer step.  [default: 1]"),
        click.option(
            "--train-seq-length", type=count, help="Tokens of a row of SFT.  [default: the profile's max_seq_length]"
        ),
        click.option(
            "--packing/--no-packing", default=None, help="Pack the rows of SFT into full ones, as trl's packing does."
        ),
        click.option(
            "--optim", type=click.Choice(OPTIMIZERS), metavar="NAME", help="transformers' name.  [default: adamw_8bit]"
        ),
        click.option(
            "--gradient-checkpointing",
            "use_gradient_checkpointing",
            type=click.Choice(["unsloth", "true", "false"]),
            help="Where activations are kept: on the host, their inputs alone, or all of them.",
        ),
        click.option("--num-generations", type=count, help="Completions of a prompt in GRPO.  [default: 8]"),
        click.option("--max-prompt-length", type=count, help="Tokens of a prompt in GRPO.  [default: 256]"),
        click.option("--max-completion-length", type=count, help="Tokens of a completion in GRPO.  [default: 256]"),
        # of synthetic weights unsloth copies the untrained rows before the first step of SFT
        setting_options(lambda flag: flag.key in ("weights", "fast_inference")),
    )
    for option in reversed(options):
        command = option(command)
    return command
