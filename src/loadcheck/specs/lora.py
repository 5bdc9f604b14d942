"""Counts of a model's parameters and of LoRA adapters on it, from the shape alone."""

from __future__ import annotations

from collections.abc import Collection
from itertools import combinations

from loadcheck.specs.shape import ModelConfig

MAX_RANK = 1024
"""The highest rank that a profile accepts (specs/profile.py: Adapters.r)."""


def adapter_params(config: ModelConfig, r: int, targets: Collection[str]) -> int:
    """Trainable parameters: A [r, in] and B [out, r] for every targeted linear of every layer."""
    per_layer = sum(r * sum(shape) for name, shape in config.linears.items() if name in targets)
    return per_layer * config.num_hidden_layers


def possible_ranks(config: ModelConfig, num_params: int) -> tuple[int, ...]:
    """The ranks at which adapters on some of the linears have this many trainable parameters; empty if there is none."""
    sizes = [sum(shape) * config.num_hidden_layers for shape in config.linears.values()]
    per_rank = {sum(chosen) for count in range(1, len(sizes) + 1) for chosen in combinations(sizes, count)}
    ranks = {num_params // size for size in per_rank if num_params % size == 0}
    return tuple(sorted(rank for rank in ranks if 1 <= rank <= MAX_RANK))


def base_params(config: ModelConfig) -> int:
    """Parameters as peft counts them: a 4-bit weight at its real size (peft/peft_model.py:715-736), tied weights once."""
    linears = sum(num_in * num_out for num_in, num_out in config.linears.values())
    bias = config.q_size + 2 * config.kv_size if config.architecture.always_qkv_bias else 0
    layers = config.num_hidden_layers * (linears + bias + 2 * config.hidden_size)
    embeddings = config.vocab_size * config.hidden_size * (1 if config.tie_word_embeddings else 2)
    return layers + embeddings + config.hidden_size
