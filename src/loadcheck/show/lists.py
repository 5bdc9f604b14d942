"""The known cards, models and profiles (env/), as data and as tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.table import Table

from loadcheck.specs.gpu import Gpu, known_bytes, load_gpus
from loadcheck.specs.lora import base_params
from loadcheck.specs.model import Model, load_models
from loadcheck.specs.profile import load_profiles
from loadcheck.stacks import weights_by_engine
from loadcheck.terminal import escape
from loadcheck.units import to_gib

Rows = list[dict[str, Any]]

FACTS = ("total_bytes", "used_before_bytes", "non_torch_bytes", "graph_node_bytes")
"""The facts of a card that a prediction uses; the first two are required."""


def cards() -> Rows:
    """Each card of env/gpus.toml. Memory in GiB; `unknown` names the facts that were never measured."""
    return [_card(key, gpu) for key, gpu in load_gpus().items()]


def _card(key: str, gpu: Gpu) -> dict[str, Any]:
    total = known_bytes(gpu.total_bytes)
    return {
        "name": key,
        "device_names": list(gpu.names),
        "total_gib": None if total is None else round(to_gib(total), 3),
        "compute_capability": gpu.compute_capability,
        "unknown": [fact for fact in FACTS if known_bytes(getattr(gpu, fact)) is None],
        "refused": gpu.refused,
    }


def models() -> Rows:
    """Each model of env/models. For a refused one, parameters and 4-bit weights are None.

    `weights_4bit_gib` is vLLM's "model weights take" on a GPU, rounded by torch's allocator; `weights_4bit_cpu_gib` is what a load on the CPU
    holds, where each linear has its own codes and no allocator rounds.
    """
    return [_model(model) for model in load_models()]


def _model(model: Model) -> dict[str, Any]:
    config = None if model.refused else model.config_for("nf4")
    held = (
        {}
        if config is None
        else {name: round(to_gib(term.num_bytes), 4) for name, term in weights_by_engine(config).items()}
    )
    return {
        "name": model.name,
        "hub_names": list(model.names),
        "parameters": None if config is None else base_params(config),
        "weights_4bit_gib": held.get("gpu"),
        "weights_4bit_cpu_gib": held.get("cpu"),
        "refused": model.refused,
    }


def profiles() -> Rows:
    """Each profile of env/profiles."""
    return [{"name": profile.name, "description": profile.description} for profile in load_profiles()]


LISTS: dict[str, Callable[[], Rows]] = {"cards": cards, "models": models, "profiles": profiles}


def show_list(out: Console, kind: str) -> None:
    """One of LISTS as a table for people."""
    header, row = _TABLES[kind]
    table = Table(box=None, pad_edge=False, show_edge=False)
    for column in header:
        number = column in ("GiB", "CC", "params", "4-bit GiB")
        table.add_column(column, justify="right" if number else "left", overflow="fold", no_wrap=number)
    for entry in LISTS[kind]():
        table.add_row(*(escape(cell) for cell in row(entry)))
    out.print(table)


def _card_row(card: dict[str, Any]) -> tuple[str, ...]:
    total = card["total_gib"]
    return card["name"], "" if total is None else f"{total:.2f}", card["compute_capability"], _known(card)


def _known(card: dict[str, Any]) -> str:
    """What is known of loads on a card."""
    names = {"used_before_bytes": "free memory", "non_torch_bytes": "non_torch", "graph_node_bytes": "graphs"}
    unknown = [names[fact] for fact in card["unknown"] if fact in names]
    if card["refused"]:
        return f"refused: {card['refused'].partition(', ')[0]}"
    return f"not measured: {', '.join(unknown)}" if unknown else "measured"


def _model_row(model: dict[str, Any]) -> tuple[str, ...]:
    if model["refused"]:
        return f"{model['name']} (refused: {model['refused']})", "", ""
    millions = model["parameters"] / 1e6
    parameters = f"{millions:.0f} M" if millions < 1000 else f"{millions / 1000:.2f} B"
    if model["name"] in {profile.model for profile in load_profiles() if profile.on_cpu}:
        return f"{model['name']} (on the CPU)", parameters, f"{model['weights_4bit_cpu_gib']:.4f}"
    return model["name"], parameters, f"{model['weights_4bit_gib']:.4f}"


_TABLES: dict[str, tuple[tuple[str, ...], Callable[[dict[str, Any]], tuple[str, ...]]]] = {
    "cards": (("card", "GiB", "CC", "known"), _card_row),
    "models": (("model", "params", "4-bit GiB"), _model_row),
    "profiles": (("profile", "description"), lambda profile: (profile["name"], profile["description"])),
}
