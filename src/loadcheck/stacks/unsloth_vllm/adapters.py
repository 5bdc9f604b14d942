"""The LoRA adapters that `get_peft_model` attaches: how many parameters, how many bytes, and what unsloth patches."""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache
from itertools import combinations

from loadcheck.predict.terms import Term, total
from loadcheck.specs.shape import ModelConfig

ADAPTER_DTYPE_BYTES = 4
"""fp32, whatever the base is: peft/mapping.py:151 (autocast_adapter_dtype), and unsloth insists (_utils.py:500-536)."""

MAX_RANK = 1024
"""The highest rank that a profile takes (specs/profile.py: Adapters.r)."""


def adapter_params(config: ModelConfig, r: int, targets: Collection[str]) -> int:
    """Trainable parameters: A [r, in] and B [out, r] for every targeted linear of every layer."""
    per_layer = sum(r * sum(shape) for name, shape in config.linears.items() if name in targets)
    return per_layer * config.num_hidden_layers


def possible_ranks(config: ModelConfig, num_params: int) -> tuple[int, ...]:
    """The ranks with which adapters on some of the linears have so many trainable parameters; empty where none has."""
    sizes = [sum(shape) * config.num_hidden_layers for shape in config.linears.values()]
    per_rank = {sum(chosen) for count in range(1, len(sizes) + 1) for chosen in combinations(sizes, count)}
    ranks = {num_params // size for size in per_rank if num_params % size == 0}
    return tuple(sorted(rank for rank in ranks if 1 <= rank <= MAX_RANK))


@lru_cache(maxsize=1024)
def adapter_memory(config: ModelConfig, r: int, targets: tuple[str, ...]) -> Term:
    parts = [
        Term(name, ADAPTER_DTYPE_BYTES * adapter_params(config, r, [name]), "peft/tuners/lora/layer.py:116-118")
        for name in config.linears
        if name in targets
    ]
    return total("adapter", parts, "peft 0.14.0; fp32")


def base_params(config: ModelConfig) -> int:
    """Parameters as peft counts them: a 4-bit weight at its real size (peft/peft_model.py:715-736), tied ones once."""
    linears = sum(num_in * num_out for num_in, num_out in config.linears.values())
    bias = config.q_size + 2 * config.kv_size if config.architecture.always_qkv_bias else 0
    layers = config.num_hidden_layers * (linears + bias + 2 * config.hidden_size)
    embeddings = config.vocab_size * config.hidden_size * (1 if config.tie_word_embeddings else 2)
    return layers + embeddings + config.hidden_size


def patched(config: ModelConfig, targets: Collection[str], lora_dropout: float) -> dict[str, int]:
    """unsloth's "patched 32 layers with …" (unsloth/models/llama.py:2529-2603): none of a group that lacks a target.

    Dropout other than 0 skips the whole block.
    """
    layers = config.num_hidden_layers
    groups = {
        "patched_qkv": {"q_proj", "k_proj", "v_proj"},
        "patched_o": {"o_proj"},
        "patched_mlp": {"gate_proj", "up_proj", "down_proj"},
    }
    counts = {name: layers if group <= set(targets) and lora_dropout == 0 else 0 for name, group in groups.items()}
    return {"patched_layers": layers, **counts}
