"""No genuine log fails: what an engine prints by the formulas, for any card, settings and model, with its own rounding."""

import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from loadcheck.checking import gather
from loadcheck.predict import Card, card_from_table
from loadcheck.predict.card import card_from_device
from loadcheck.specs.gpu import WITHOUT_ECC, known_bytes, load_gpus
from loadcheck.specs.model import load_models
from loadcheck.specs.profile import VLLM_LORA_RANKS
from loadcheck.units import GIB, MIB
from loadcheck.verdict import judge
from tests.sample_logs import printed_load

PROFILE = "llama31-8b-instruct-4bit"
DEVICES = {
    "L4": "NVIDIA L4",
    "L40S": "NVIDIA L40S",
    "A10G": "NVIDIA A10G",
    "RTX3090": "NVIDIA GeForce RTX 3090",
    "RTX4090": "NVIDIA GeForce RTX 4090",
    "A100-40GB": "NVIDIA A100-SXM4-40GB",
    "A100-80GB": "NVIDIA A100-SXM4-80GB",
    "H100": "NVIDIA H100 80GB HBM3",
}


def _card(key: str, more_used_bytes: int = 0, more_non_torch_bytes: int = 0) -> Card:
    """The table's card with another driver: more memory in use before the load, and another non_torch."""
    card = card_from_table(key)
    return replace(
        card,
        name=DEVICES.get(key, "Tesla T4"),
        free_bytes=card.free_bytes - more_used_bytes,
        non_torch_bytes=card.assumed_non_torch_bytes + more_non_torch_bytes,
    )


def _failures(log: Path, text: str | None) -> list[str]:
    assert text is not None
    log.write_text(text)
    return [f"{finding.figure}: {finding.why}" for finding in judge(gather(log)).failures()]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("genuine") / "load.log"


@given(
    key=st.sampled_from(sorted(DEVICES)),
    more_used=st.integers(-20, 400),
    more_non_torch=st.integers(-15, 15),
    changes=st.fixed_dictionaries(
        {
            "model": st.sampled_from(
                ["llama-3.1-8b-instruct", "llama-3.2-3b-instruct", "mistral-7b-instruct-v0.3", "qwen2.5-7b-instruct"]
            ),
            "max_seq_length": st.sampled_from([512, 1024, 4096]),
            "gpu_memory_utilization": st.sampled_from([0.4, 0.5, 0.6, 0.9]),
            "conservativeness": st.sampled_from([1.0, 0.5]),
        }
    ),
)
def test_a_genuine_log_passes(key: str, more_used: int, more_non_torch: int, changes: dict[str, Any], log: Path):
    """On every card, with any driver and settings, a log passes by its printed digits."""
    text = printed_load(_card(key, more_used * MIB, more_non_torch * MIB), 28 * GIB, changes)
    assume(text is not None)
    assert _failures(log, text) == []


@pytest.mark.parametrize("ram_gib", [5, 11, 28, 60])
def test_a_t4_may_have_any_ram(ram_gib: int, log: Path):
    """Swap space follows from the host's RAM, so a T4 passes with any."""
    assert _failures(log, printed_load(_card("T4"), ram_gib * GIB, {})) == []


def test_a_t4_in_use_passes(log: Path):
    """With 200 MiB more in use, budget, cache and blocks change, and follow from the printed utilization."""
    assert _failures(log, printed_load(_card("T4", more_used_bytes=200 * MIB), 11 * GIB, {})) == []


@pytest.mark.parametrize("key", ["T4", "A10G", "L4", "L40S"])
def test_a_card_without_ecc_passes(key: str, log: Path):
    """Without error correction a card has a fifteenth more memory: it is judged by its own numbers, with a note."""
    card = _card(key)
    more = round(card.total_bytes * (WITHOUT_ECC - 1))
    card = replace(card, total_bytes=card.total_bytes + more, free_bytes=card.free_bytes + more)
    text = printed_load(card, 28 * GIB, {})
    assert _failures(log, text) == []
    assert any("(ECC) switched off" in finding.why for finding in judge(gather(log)).findings)


@pytest.mark.parametrize(("name", "capability", "gib"), [("NVIDIA A10", "8.6", 23.7), ("NVIDIA RTX A6000", "8.6", 47.4),
                                                         ("NVIDIA RTX A6000", "8.6", 44.4), ("NVIDIA RTX 6000 Ada Generation", "8.9", 47.5)])  # fmt: skip
def test_an_unknown_card_is_judged_by_its_own_numbers(name: str, capability: str, gib: float, log: Path):
    """An unknown card passes by its own numbers, with ECC or without, under any name."""
    total = round(gib * GIB)
    card = card_from_device(name, capability, total, total - 300 * MIB)
    card = replace(card, non_torch_bytes=card.assumed_non_torch_bytes, graph_node_bytes=5000)
    assert _failures(log, printed_load(card, 28 * GIB, {})) == []


# ---------------------------------------------------------------------------------- any card, model, rank, driver and settings

SAMPLE = settings.default.max_examples
CARDS = [key for key, gpu in load_gpus().items() if known_bytes(gpu.total_bytes) is not None]
MODELS = [model.name for model in load_models() if model.refused is None]
LARGEST_LENGTH = 8192


def _random_card(dice: random.Random) -> Card:
    """A card of the table with 0.2 to 2 % in use, and non_torch and graph memory as with other drivers."""
    gpu = load_gpus()[dice.choice(CARDS)]
    total = dice.choice([known_bytes(fact) for fact in (gpu.total_bytes, *gpu.other_totals)])
    assert total is not None
    if gpu.inline_ecc and dice.random() < 0.2:
        total = round(total * WITHOUT_ECC)
    card = card_from_device(
        dice.choice(gpu.names), gpu.compute_capability, total, round(total * (1 - dice.uniform(0.002, 0.02)))
    )
    graph_node = card.graph_node_bytes or dice.randint(3560, 8200)
    non_torch = card.assumed_non_torch_bytes + dice.randint(-15, 15) * MIB
    return replace(card, non_torch_bytes=non_torch, graph_node_bytes=graph_node)


def _random_settings(dice: random.Random) -> dict[str, Any]:
    rank = dice.choice(VLLM_LORA_RANKS)
    positions = {model.name: int(model.config["max_position_embeddings"]) for model in load_models()}
    model = dice.choice(MODELS)
    return {
        "model": model,
        "load_in_4bit": dice.random() < 0.8,
        "max_lora_rank": rank,
        "adapters.r": rank,
        "max_seq_length": min(dice.choice([512, 1024, 2000, 4096, LARGEST_LENGTH]), positions[model]),
        "gpu_memory_utilization": dice.choice([0.3, 0.5, 0.57, 0.6, 0.8, 0.9, 0.95]),
        "conservativeness": dice.choice([1.0, 1.0, 0.5]),
        "enforce_eager": dice.random() < 0.1,
    }


def _random_log(dice: random.Random) -> str:
    """A log of the first random settings that fit their card; every second has the profile's own model, length and utilization."""
    while True:
        changes = _random_settings(dice)
        if dice.random() < 0.5:
            changes |= {
                "model": "llama-3.1-8b-instruct",
                "load_in_4bit": True,
                "max_seq_length": 512,
                "gpu_memory_utilization": 0.6,
            }
        text = printed_load(_random_card(dice), dice.choice([5, 11, 28, 60, 120]) * GIB, changes)
        if text is not None:
            return text


@pytest.mark.parametrize("seed", range(SAMPLE))
def test_no_genuine_log_fails(seed: int, log: Path):
    """With any card, model, rank, length, utilization and driver a log passes, or the finding has the flags with which it does."""
    log.write_text(_random_log(random.Random(seed)))
    failures = judge(gather(log)).failures()
    overrides = {key: value for finding in failures for key, value in _overrides(finding.remedy).items()}
    if overrides:
        failures = judge(gather(log, overrides=overrides)).failures()
    assert [f"{finding.figure}: {finding.why}" for finding in failures] == []


def _overrides(remedy: str) -> dict[str, Any]:
    """The settings that a finding's remedy suggests for `check`."""
    if "check with --load-in-16bit" in remedy:
        return {"load_in_4bit": False}
    flags = re.search(r"check with --max-lora-rank (\d+) --lora-r (\d+)", remedy)
    return {} if flags is None else {"max_lora_rank": int(flags[1]), "adapters.r": int(flags[2])}
