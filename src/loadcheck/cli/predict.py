"""`loadcheck predict`: every figure of a load, before it runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from loadcheck.cli.chosen import chosen_case, chosen_profile, names_card, overrides
from loadcheck.cli.config_option import config_option
from loadcheck.cli.matrix import predicted_on
from loadcheck.cli.options import (
    PREDICTED_PROFILE,
    card_options,
    json_option,
    profile_argument,
    profile_options,
    train_steps_option,
)
from loadcheck.cli.output import given_command, html_option, print_json
from loadcheck.cli.train_options import train_options
from loadcheck.cli.written import write_page
from loadcheck.errors import EXIT_FAIL, EXIT_PASS
from loadcheck.predict import Case, Prediction
from loadcheck.show.case import case_json, show_case
from loadcheck.show.prediction import show_prediction, show_without_budget
from loadcheck.stacks import predict as predict_load
from loadcheck.terminal import console
from loadcheck.units import show_bytes


@click.command("predict", short_help="Predict every figure of a load, and whether it fits.")
@profile_argument(PREDICTED_PROFILE)
@profile_options
@train_steps_option
@train_options
@card_options
@click.option("--gpus", metavar="CARDS", help="Show which of these cards hold it: T4,L4,A100-40GB, or all.")
@click.option("--tree", is_flag=True, help="Show every term of the memory, with the source of its formula.")
@html_option
@json_option
@config_option
def command(
    as_json: bool,
    html: Path | None,
    tree: bool,
    gpus: str | None,
    profile: str | None,
    ram_available_bytes: int | None,
    **flags: Any,
) -> int:
    """Predict every figure of the load log of PROFILE, and whether it fits.

    Without vLLM, only weights, adapters and parameters are predicted, and on the CPU the peak of the process; no --gpu is needed.

    Exit codes: 0 it fits (with --gpus, on one of the cards), or it loads without vLLM, 1 it would not fit, 2 bad input, 3 no --gpu is named, and this
    machine has none.
    """
    chosen = chosen_profile(profile or PREDICTED_PROFILE, overrides(flags), follows_rank=True)
    if gpus is not None:
        return predicted_on(gpus, chosen, flags, ram_available_bytes, as_json, html)
    case = chosen_case(chosen, flags, ram_available_bytes)
    if flags["method"] is not None:
        from loadcheck.cli.training import predicted

        return predicted(case, flags, as_json, tree, html)
    prediction = predict_load(case)
    by_ram = prediction.account is not None and chosen.keeps_slots  # vLLM alone takes 4 GiB, whatever there is
    if by_ram and ram_available_bytes is None and names_card(flags):
        prediction = replace(prediction, notes=(*prediction.notes, _ram_note(case.ram_available_bytes or 0)))
    if html is not None:
        from loadcheck.show.page import prediction_page

        write_page(html, prediction_page(case, prediction, given_command()))
    if as_json:
        print_json({**case_json(case), **prediction.to_json()})
    else:
        _show(case, prediction, tree)
    return EXIT_PASS if prediction.fits else EXIT_FAIL


def _show(case: Case, prediction: Prediction, tree: bool) -> None:
    out = console()
    show_case(out, case)
    if prediction.account is None:
        show_without_budget(out, prediction)
    else:
        show_prediction(out, prediction, tree)


def _ram_note(ram_bytes: int) -> str:
    return f"num_cpu_blocks and swap_gib assume this machine's RAM, {show_bytes(ram_bytes)} available; set --ram-available-bytes for another machine"
