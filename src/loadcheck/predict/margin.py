"""What a load leaves of everything that it can be short of, and how much of it must be left as a prediction may be off."""

from __future__ import annotations

from collections.abc import Mapping

from loadcheck.predict.bands import KV_SLACK_BYTES, NON_TORCH_SLACK_BYTES, PEAK_SLACK
from loadcheck.predict.card import Card
from loadcheck.predict.kv import BLOCK_TOKENS, config_block_bytes
from loadcheck.predict.prediction import Prediction
from loadcheck.predict.unsloth_plan import kv_estimate_needed
from loadcheck.specs.model import ModelConfig
from loadcheck.specs.profile import Profile
from loadcheck.specs.trouble import Shortage

Amounts = Mapping[Shortage, int]
"""Bytes, but for "batch", which is in tokens."""


def slack(card: Card) -> dict[Shortage, int]:
    """What a load must have left, as the prediction may be off by so much (predict/bands.py)."""
    of_card = int(PEAK_SLACK * card.total_bytes)
    non_torch = 0 if card.non_torch_bytes is not None else NON_TORCH_SLACK_BYTES
    return {
        "kv_estimate": KV_SLACK_BYTES,
        "batch": 0,
        "profile": of_card,
        "kv_cache": KV_SLACK_BYTES + non_torch,
        "peak": of_card,
    }


def amounts_left(config: ModelConfig, card: Card, profile: Profile, prediction: Prediction) -> dict[Shortage, int]:
    """What is left of everything that a load can be short of, in the order in which the engine comes to it."""
    figures = prediction.figures
    length, sequences = figures.max_model_len, figures.max_num_seqs
    assert length is not None and sequences is not None and figures.kv_estimate_bytes is not None
    assert figures.weights_bytes is not None and figures.activation_peak_bytes is not None
    assert figures.kv_cache_bytes is not None and figures.peak_device_bytes is not None
    parts = {term.name: term.num_bytes for term in prediction.terms.parts}
    beside = sum(parts.get(name, 0) for name in ("context", "non_torch", "lora_slots"))  # a part of 0 is not among them
    return {
        "kv_estimate": figures.kv_estimate_bytes - kv_estimate_needed(config, profile.max_seq_length),
        "batch": length - sequences,
        "profile": card.total_bytes - beside - figures.weights_bytes - figures.activation_peak_bytes,
        "kv_cache": figures.kv_cache_bytes - request_bytes(config, length),
        "peak": card.total_bytes - figures.peak_device_bytes,
    }


def request_bytes(config: ModelConfig, length: int) -> int:
    """KV cache of one request of `length` tokens."""
    return -(-length // BLOCK_TOKENS) * config_block_bytes(config)
