"""`predict --method` and `fit --method`: the flags of a training, and what they are answered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from loadcheck.cli.chosen import with_card
from loadcheck.cli.output import print_json
from loadcheck.errors import EXIT_FAIL, EXIT_PASS, BadInput, Problem
from loadcheck.predict import Case
from loadcheck.show.case import case_json, show_case
from loadcheck.show.prediction import show_prediction
from loadcheck.show.training import show_fit_training, show_training
from loadcheck.specs.files import validate
from loadcheck.specs.profile import Profile
from loadcheck.stacks import predict
from loadcheck.terminal import console
from loadcheck.workloads.names import OPTIMIZERS
from loadcheck.workloads.settings import TrainSettings
from loadcheck.workloads.training import SETTINGS, TrainPrediction, fit_training, predict_training

Command = TypeVar("Command", bound=Callable[..., Any])


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
        click.option(
            "--weights",
            type=click.Choice(["hub", "package", "synthetic", "local"]),
            help="Where the weights come from: of synthetic ones unsloth copies the untrained rows before the first step of SFT.",
        ),
        click.option("--fast-inference/--no-fast-inference", default=None, help="With vLLM in the card, or without."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def predicted(case: Case, flags: dict[str, Any], as_json: bool, tree: bool) -> int:
    """`predict --method`: the load, where vLLM is in it, and the training of its adapters."""
    settings = _settings(flags, case.profile)
    case = with_card(case, flags)
    training = predict_training(case, settings)
    load = training.engine if training.engine is not None else predict(case)
    if as_json:
        print_json(_document(training, {**case_json(case), **load.to_json()}))
    else:
        out = console()
        show_case(out, case)
        if training.engine is not None:
            show_prediction(out, load, tree=False)
        show_training(out, training, tree)
    return EXIT_PASS if training.fits else EXIT_FAIL


def fitted(case: Case, flags: dict[str, Any], as_json: bool) -> int:
    """`fit --method`: the most of each setting of the training that this card holds."""
    settings = _settings(flags, case.profile)
    case = with_card(case, flags)
    found = fit_training(case, settings)
    if as_json:
        print_json({**case_json(case), "most": [each.to_json() for each in found]})
    else:
        out = console()
        show_case(out, case)
        show_fit_training(out, found)
    return EXIT_PASS if any(each.value for each in found) else EXIT_FAIL


def _settings(flags: dict[str, Any], profile: Profile) -> TrainSettings:
    """The training that the flags describe; BadInput for a profile without adapters, and for rows longer than the model takes."""
    if profile.adapters is None or profile.on_cpu:
        what = (
            "has no adapters to train"
            if profile.adapters is None
            else "is for the CPU, whose training is not predicted"
        )
        raise BadInput(Problem(f"profile {profile.name}", what, "name another profile", "adapters"))
    given = {name: flags[name] for name in SETTINGS if flags.get(name) is not None}
    given.setdefault("train_seq_length", profile.max_seq_length)
    settings = validate(TrainSettings, given, "command line")
    if settings.method == "grpo" and settings.row_tokens > profile.max_seq_length:
        what = f"prompt and completion are {settings.row_tokens} tokens, above max_seq_length {profile.max_seq_length}"
        raise BadInput(Problem("command line", what, "raise --max-seq-length", "--max-completion-length"))
    return settings


def _document(training: TrainPrediction, base: dict[str, Any]) -> dict[str, Any]:
    """The document of `predict --json`: the load's, with the training's figures among its own."""
    return {
        **base,
        "fits": training.fits,
        "figures": {**base["figures"], **training.figures_json()},
        "bytes": {**base["bytes"], **training.bytes_json()},
        "training": training.to_json(),
    }
