"""`loadcheck fit`: the settings that fit."""

from __future__ import annotations

from functools import partial
from typing import Any

import click

from loadcheck.cli.chosen import chosen_case, chosen_profile, one_rank, overrides, with_local_weights
from loadcheck.cli.config_option import config_option
from loadcheck.cli.options import (
    PREDICTED_PROFILE,
    card_options,
    json_option,
    profile_argument,
    profile_options,
    train_steps_option,
)
from loadcheck.cli.output import print_json
from loadcheck.cli.train_options import train_options
from loadcheck.errors import EXIT_FAIL, EXIT_PASS, BadInput, Problem
from loadcheck.predict.fit import GOALS, searched
from loadcheck.predict.fit import fit as find_fit
from loadcheck.show.case import case_json, show_case
from loadcheck.show.fit import show_fit
from loadcheck.specs.profile import Profile, load_profile
from loadcheck.specs.settings import load_command
from loadcheck.stacks import stack_of
from loadcheck.terminal import console


@click.command("fit", short_help="Find the settings that fit a model on a card, best first.")
@profile_argument(PREDICTED_PROFILE)
@click.option(
    "--for", "goal", type=click.Choice(GOALS), default="length", show_default=True,
    help="What to maximize: the length of requests, the number of requests at once, or the memory left for training.",
)  # fmt: skip
@profile_options
@train_steps_option
@train_options
@card_options
@json_option
@config_option
def command(as_json: bool, goal: Any, profile: str | None, ram_available_bytes: int | None, **flags: Any) -> int:
    """Find the settings that fit this model on this GPU, best first, and show what each of them moves.

    The search starts from PROFILE: its model, rank, targets and length. It varies --gpu-memory-utilization, --conservativeness and, for the
    longest requests, --max-seq-length. Settings given as flags stay fixed.

    Exit codes: 0 some settings fit, 1 none do, 2 bad input, 3 no --gpu is named, and this machine has none.
    """
    name, changed = profile or PREDICTED_PROFILE, overrides(flags)
    base = with_local_weights(chosen_profile(name, changed, follows_rank=True))
    given = frozenset(one_rank(changed))
    case = chosen_case(base, flags, ram_available_bytes)
    if flags["method"] is not None:
        from loadcheck.cli.training import fitted

        return fitted(case, flags, as_json)
    if case.card is None:
        raise BadInput(_nothing_to_fit(base))
    found = find_fit(stack_of(base), case, goal, given)
    load_by = partial(load_command, base=load_profile(name), name=name)
    if as_json:
        print_json({**case_json(case, searched(goal, given)), **found.to_json(load_by)})
    else:
        out = console()
        show_case(out, case, searched(goal, given))
        show_fit(out, found, load_by)
    return EXIT_PASS if found.proposals else EXIT_FAIL


def _nothing_to_fit(profile: Profile) -> Problem:
    return Problem(
        f"profile {profile.name}",
        "loads without vLLM, and fit searches vLLM's settings",
        f"see `loadcheck predict {profile.name}`, or use a profile with engine = 'gpu' and fast_inference = true",
        "engine" if profile.on_cpu else "fast_inference",
    )
