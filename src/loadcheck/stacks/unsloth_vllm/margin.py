"""What a load leaves of each resource that it can run out of, and the margin that the prediction's error requires."""

from __future__ import annotations

from loadcheck.predict.account import Prediction
from loadcheck.predict.card import Card
from loadcheck.predict.case import Case
from loadcheck.specs.shape import ModelConfig
from loadcheck.specs.trouble import Shortage
from loadcheck.stacks.unsloth_vllm.bands import KV_SLACK_BYTES, NON_TORCH_SLACK_BYTES, PEAK_SLACK
from loadcheck.stacks.unsloth_vllm.kv import BLOCK_TOKENS, config_block_bytes
from loadcheck.stacks.unsloth_vllm.plan import kv_estimate_needed


def slack(card: Card) -> dict[Shortage, int]:
    """The margin that a load must leave, because the prediction may be off by that much (stacks/unsloth_vllm/bands.py)."""
    card_share = int(PEAK_SLACK * card.total_bytes)
    non_torch = 0 if card.non_torch_bytes is not None else NON_TORCH_SLACK_BYTES
    return {
        "kv_estimate": KV_SLACK_BYTES,
        "batch": 0,
        "profile": card_share,
        "kv_cache": KV_SLACK_BYTES + non_torch,
        "peak": card_share,
    }


def amounts_left(case: Case, prediction: Prediction) -> dict[Shortage, int]:
    """What is left of each resource that a load can run out of, in the order in which the engine uses them."""
    figures = prediction.figures
    assert figures.max_model_len is not None and figures.max_num_seqs is not None
    assert figures.kv_estimate_bytes is not None
    return {
        "kv_estimate": figures.kv_estimate_bytes - kv_estimate_needed(case.config, case.profile.max_seq_length),
        "batch": figures.max_model_len - figures.max_num_seqs,
        **engine_left(case, prediction, ("context", "non_torch", "lora_slots")),
    }


def engine_left(case: Case, prediction: Prediction, beside: tuple[str, ...]) -> dict[Shortage, int]:
    """What is left while vLLM profiles the model next to the terms `beside`, in the KV cache, and at the card's peak."""
    card, figures = case.gpu, prediction.figures
    assert figures.max_model_len is not None
    assert figures.weights_bytes is not None and figures.activation_peak_bytes is not None
    assert figures.kv_cache_bytes is not None and figures.peak_device_bytes is not None
    other_bytes = prediction.memory.sum_bytes(beside)
    return {
        "profile": card.total_bytes - other_bytes - figures.weights_bytes - figures.activation_peak_bytes,
        "kv_cache": figures.kv_cache_bytes - request_bytes(case.config, figures.max_model_len),
        "peak": card.total_bytes - figures.peak_device_bytes,
    }


def needs(case: Case) -> dict[Shortage, int]:
    """What one request of full length needs of the KV cache, and of unsloth's estimate of it."""
    length = case.profile.max_seq_length
    return {
        "kv_estimate": kv_estimate_needed(case.config, length),
        "kv_cache": request_bytes(case.config, length),
    }


def request_bytes(config: ModelConfig, length: int) -> int:
    """The KV cache of one request of `length` tokens."""
    return -(-length // BLOCK_TOKENS) * config_block_bytes(config)
