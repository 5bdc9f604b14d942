"""The profile, the card and the log that the flags of a command choose."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from loadcheck.device import ram_available_bytes as read_ram
from loadcheck.errors import BadInput, Problem
from loadcheck.logs.text import rereadable
from loadcheck.predict import Case
from loadcheck.predict.card import described_card, present_card
from loadcheck.specs.files import changed
from loadcheck.specs.model import find_model
from loadcheck.specs.profile import Profile, load_profile
from loadcheck.specs.settings import settings_of
from loadcheck.stacks import case_of


def with_local_weights(profile: Profile) -> Profile:
    """A model that is not in env/models is a local folder, and so are its weights."""
    known = profile.weights not in ("hub", "package") or find_model(profile.model) is not None
    return profile if known else changed(profile, {"weights": "local"})


def chosen_case(profile: Profile, flags: dict[str, Any], ram_available_bytes: int | None) -> Case:
    """The load to predict; BadInput or UnsupportedMachine if its model or card is not available."""
    case = case_of(profile, None, read_ram() if ram_available_bytes is None else ram_available_bytes)
    return with_card(case, flags) if profile.has_budget else case


def with_card(case: Case, flags: dict[str, Any]) -> Case:
    """The same load on the card of the flags, else this machine's, for a training that needs one although its load does not."""
    if case.card is not None:
        return case
    described = described_card(*(flags[name] for name in CARD_FLAGS)) if names_card(flags) else None
    return replace(case, card=described or present_card(flags["non_torch_bytes"]))


def chosen_profile(name: str, given: dict[str, Any], follows_rank: bool = False) -> Profile:
    """The profile with the given flags applied; BadInput names the flag if a wrong value came from one."""
    try:
        follows = follows_rank and load_profile(name).adapters is not None
        return load_profile(name, one_rank(given) if follows else given)
    except BadInput as error:
        flags = {flag.key: flag.name for flag in settings_of(Profile) if flag.key in given}
        raise BadInput(
            Problem(flags[problem.key], problem.what, problem.remedy) if problem.key in flags else problem
            for problem in error.problems
        ) from None


def one_rank(changed: dict[str, Any]) -> dict[str, Any]:
    """A largest rank without a rank means adapters of that rank."""
    rank = {"adapters.r": changed["max_lora_rank"]} if "max_lora_rank" in changed else {}
    return rank | changed


DESCRIBING = ("gpu", "gpu_total_bytes", "gpu_free_bytes", "compute_capability")
CARD_FLAGS = (*DESCRIBING, "non_torch_bytes")


def names_card(flags: dict[str, Any]) -> bool:
    """Whether the flags name or describe a card, rather than this machine's."""
    return any(flags[name] is not None for name in DESCRIBING)


def overrides(flags: dict[str, Any]) -> dict[str, Any]:
    """The profile's keys that flags override, by dotted key."""
    keys = {flag.parameter: flag.key for flag in settings_of(Profile)}
    changed = {keys[name]: value for name, value in flags.items() if name in keys and value is not None}
    if "generation.prompt" in changed:  # the profile's expected word belongs to its own prompt
        changed.setdefault("generation.expect", None)
    targets = "adapters.target_modules"
    if targets in changed:
        changed[targets] = [name.strip() for name in changed[targets].split(",") if name.strip()]
    checkpointing = "adapters.use_gradient_checkpointing"
    if changed.get(checkpointing) in ("true", "false"):
        changed[checkpointing] = changed[checkpointing] == "true"
    return changed


@contextmanager
def log_file(target: Path) -> Iterator[Path]:
    """`target` itself; for "-" and a pipe a file with their content, as a log is read more than once."""
    with rereadable(target, sys.stdin.buffer if str(target) == "-" else None) as file:
        yield file
