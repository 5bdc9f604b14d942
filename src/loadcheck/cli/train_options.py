"""The flags of a training, for every command that predicts or runs one."""

from __future__ import annotations

import click

from loadcheck.cli.options import Command, setting_options
from loadcheck.specs.training import OPTIMIZERS


def train_options(command: Command) -> Command:
    """The flags of a training. Commands that only predict ignore them without --method."""
    count = click.IntRange(min=1)
    options = (
        click.option(
            "--method",
            type=click.Choice(["sft", "grpo"]),
            help="Training method (train: sft by default); with it, predict and fit are about the training.",
        ),
        click.option(
            "--per-device-train-batch-size", type=count, help="Rows in a batch (GRPO: prompts).  [default: 1]"
        ),
        click.option("--gradient-accumulation-steps", type=count, help="Batches per optimizer step.  [default: 1]"),
        click.option(
            "--train-seq-length", type=count, help="SFT: tokens in a row.  [default: the profile's max_seq_length]"
        ),
        click.option(
            "--packing/--no-packing", default=None, help="SFT: pack examples into full rows, as trl's packing does."
        ),
        click.option(
            "--optim",
            type=click.Choice(OPTIMIZERS),
            metavar="NAME",
            help="Optimizer, by transformers' name.  [default: adamw_8bit; on the CPU adamw_torch]",
        ),
        click.option(
            "--gradient-checkpointing",
            "use_gradient_checkpointing",
            type=click.Choice(["unsloth", "true", "false"]),
            help="unsloth: keep activations on the host; true: keep only their inputs; false: keep all.",
        ),
        click.option("--num-generations", type=count, help="GRPO: completions per prompt.  [default: 8]"),
        click.option("--max-prompt-length", type=count, help="GRPO: tokens in a prompt.  [default: 256]"),
        click.option("--max-completion-length", type=count, help="GRPO: tokens in a completion.  [default: 256]"),
        # of synthetic weights unsloth copies the untrained rows before the first step of SFT
        setting_options(lambda flag: flag.key in ("weights", "fast_inference")),
    )
    for option in reversed(options):
        command = option(command)
    return command
