"""`predict --gpus`: which cards hold a load, or with --method a training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from loadcheck.cli.chosen import CARD_FLAGS, chosen_case
from loadcheck.cli.output import given_command, print_json
from loadcheck.cli.written import write_page
from loadcheck.errors import EXIT_FAIL, EXIT_PASS, BadInput, Problem
from loadcheck.predict import Card, Case
from loadcheck.predict.matrix import Outcome, cards_named, every_card, matrix
from loadcheck.predict.search import Search
from loadcheck.show.case import case_json, describe_load
from loadcheck.show.matrix import show_matrix
from loadcheck.specs.profile import Profile
from loadcheck.stacks import predict, stack_of
from loadcheck.terminal import console, print_words
from loadcheck.units import show_bytes


def predicted_on(
    names: str,
    profile: Profile,
    flags: dict[str, Any],
    ram_available_bytes: int | None,
    as_json: bool,
    html: Path | None = None,
) -> int:
    """Predict a profile on each named card, or on "all" known ones; exit code 0 if one of them holds it.

    BadInput if flags describe a card besides, and for every unknown name.
    """
    cards = _cards(names, profile, flags)
    case = chosen_case(profile, {**flags, "gpu": cards[0][0]}, ram_available_bytes)
    rows = matrix(case, cards, _training(flags) if flags["method"] is not None else _load)
    if html is not None:
        from loadcheck.show.page import matrix_page

        write_page(html, matrix_page(case, rows, given_command()))
    if as_json:
        print_json({**case_json(replace(case, card=None)), "cards": [row.to_json() for row in rows]})
    else:
        out = console()
        print_words(out, describe_load(case))
        show_matrix(out, rows)
    return EXIT_PASS if any(row.outcome.fits for row in rows) else EXIT_FAIL


def _cards(names: str, profile: Profile, flags: dict[str, Any]) -> list[tuple[str, Card]]:
    """The named cards, or all; BadInput without any, if flags describe one besides, and for every unknown name."""
    described = [f"--{name.replace('_', '-')}" for name in CARD_FLAGS if flags[name] is not None]
    if described:
        raise BadInput(
            Problem("command line", f"--gpus and {', '.join(described)} exclude each other", "leave one of them out")
        )
    if profile.on_cpu:
        raise BadInput(Problem(f"profile {profile.name}", "runs on the CPU", "leave --gpus out"))
    given = [name.strip() for name in names.split(",") if name.strip()]
    cards = cards_named(every_card() if given == ["all"] else given)
    if not cards:
        raise BadInput(Problem("--gpus", "names no card", "name cards, such as T4,L4, or all"))
    return cards


def _load(case: Case) -> Outcome:
    prediction = predict(case)
    concurrency, length = prediction.figures.max_concurrency, prediction.figures.max_model_len
    if prediction.account is None:
        raise BadInput(Problem(f"profile {case.profile.name}", "loads without vLLM, so its memory is not predicted",
                               "add --method sft or grpo for the peak of a training"))  # fmt: skip
    return Outcome(
        fits=prediction.fits,
        peak_bytes=prediction.account.peak.num_bytes,
        full_batch_bytes=prediction.account.largest_bytes,
        kv_tokens=None if concurrency is None or length is None else round(concurrency * length),
        max_concurrency=concurrency,
        longest_tokens=_longest(case),
        why_not=prediction.obstacles[0].what if prediction.obstacles else "",
    )


def _longest(case: Case) -> int | None:
    """Tokens of the longest request that the card holds, all other settings unchanged."""
    search = Search(stack_of(case.profile), case, frozenset({"gpu_memory_utilization"}))
    found = search.longest(case.profile)
    return None if found is None else found.profile.max_seq_length


def _training(flags: dict[str, Any]) -> Any:
    from loadcheck.cli.training import settings_of_training
    from loadcheck.workloads.training import predict_training

    def outcome(case: Case) -> Outcome:
        training = predict_training(case, settings_of_training(flags, case.profile))
        engine = () if training.engine is None else training.engine.obstacles
        short = f"the training needs {show_bytes(training.needed_bytes)}, and the card has {show_bytes(case.gpu.total_bytes)}"
        why_not = "" if training.fits else engine[0].what if engine else short
        return Outcome(training.fits, training.needed_bytes, why_not=why_not)

    return outcome
