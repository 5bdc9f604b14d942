"""A case, rendered as one line for people and as a part of a JSON document."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Console

from loadcheck.predict.card import Card
from loadcheck.predict.case import Case
from loadcheck.specs.files import to_data
from loadcheck.specs.profile import LINEAR_MODULES, Profile
from loadcheck.specs.settings import words_of
from loadcheck.terminal import print_words
from loadcheck.units import show_bytes, to_gib

NOTHING: frozenset[str] = frozenset()


def describe(case: Case, searched: frozenset[str] = NOTHING) -> str:
    """In a line: `llama-3.1-8b-instruct nf4, r 32, length 512, utilization 0.6, on T4 with 14.64 GiB free`.

    `searched` are keys of the profile that a search varies, so their own values are left out.
    """
    model = f"{case.model_name} {case.config.quantization}"
    return f"{case.profile.name}: {', '.join([model, *_settings(case, searched), _where(case)])}"


def describe_load(case: Case) -> str:
    """As `describe`, without the card, for a load on several cards."""
    model = f"{case.model_name} {case.config.quantization}"
    return f"{case.profile.name}: {', '.join([model, *_settings(case, NOTHING)])}"


def show_case(out: Console, case: Case, searched: frozenset[str] = NOTHING) -> None:
    """Print in a line what is predicted."""
    print_words(out, describe(case, searched))


def _settings(case: Case, searched: frozenset[str]) -> Iterator[str]:
    """The settings that move memory; rarely used ones only if they differ from their default."""
    profile, adapters = case.profile, case.profile.adapters
    yield "no adapters" if adapters is None else f"r {adapters.r}"
    if adapters is not None and set(adapters.target_modules) != set(LINEAR_MODULES):
        yield f"on {'+'.join(adapters.target_modules)}"
    if "max_seq_length" not in searched:
        yield f"length {profile.max_seq_length}"
    if profile.training.steps:
        yield f"{profile.training.steps} training steps"
    if not profile.has_budget:
        return
    if profile.keeps_slots and (adapters is None or adapters.r != profile.max_lora_rank):
        yield f"slots of rank {profile.max_lora_rank}"
    if "gpu_memory_utilization" not in searched:
        yield f"utilization {profile.gpu_memory_utilization}"
    if profile.conservativeness != 1 and "conservativeness" not in searched:
        yield f"conservativeness {profile.conservativeness}"
    yield from _rare_settings(profile)


def _rare_settings(profile: Profile) -> Iterator[str]:
    """Settings that few loads change."""
    if not profile.keeps_slots:
        yield "vLLM alone"
    yield from words_of(profile)
    if profile.max_num_seqs is not None:
        yield f"{profile.max_num_seqs} sequences"
    if profile.max_num_batched_tokens is not None:
        yield f"{profile.max_num_batched_tokens} tokens a batch"
    for name, value in (("prefix caching", profile.prefix_caching), ("chunked prefill", profile.chunked_prefill)):
        if value != "default":
            yield f"{name} {value}"


def _where(case: Case) -> str:
    if case.card is not None:
        return f"on {case.card.name} with {show_bytes(case.card.free_bytes)} free"
    return "on the CPU" if case.profile.on_cpu else "without vLLM"


def case_json(case: Case, searched: frozenset[str] = NOTHING) -> dict[str, Any]:
    """`model`, `profile`, `settings` (the profile's keys, without those searched) and `gpu` (null without a card)."""
    settings = to_data(case.profile)
    named = {key: settings.pop(key) for key in ("name", "description")}
    return {
        "model": {"name": case.model_name, "quantization": case.config.quantization},
        "profile": named,
        "settings": {key: value for key, value in settings.items() if key not in searched},
        "gpu": None if case.card is None else _card_json(case.card),
    }


def _card_json(card: Card) -> dict[str, Any]:
    return {
        "name": card.name,
        "compute_capability": str(card.compute_capability),
        "total_gib": round(to_gib(card.total_bytes), 3),
        "free_gib": round(to_gib(card.free_bytes), 3),
        "total_bytes": card.total_bytes,
        "free_bytes": card.free_bytes,
    }
