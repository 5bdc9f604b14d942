"""Which of vLLM's linears are in 4 bits, layer by layer: all of them, or what a dynamic quant leaves.

unsloth replaces vLLM's own test of a module's name (unsloth_zoo/vllm_utils.py:58-74 at 2025.2.4): a linear is left in 16 bits where one
of the checkpoint's `llm_int8_skip_modules` is the whole of a dotted prefix of its name.
"""

from __future__ import annotations

from collections import Counter
from functools import lru_cache

from loadcheck.specs.shape import ModelConfig

# vLLM's linears of a layer, each with the Hugging Face ones that it holds.
MERGED_LINEARS = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "o_proj": ("o_proj",),
    "gate_up_proj": ("gate_proj", "up_proj"),
    "down_proj": ("down_proj",),
}


@lru_cache(maxsize=256)
def kinds_of_layers(config: ModelConfig) -> dict[frozenset[str], int]:
    """How many layers there are of each kind, by those of vLLM's linears that are in 4 bits in it."""
    return dict(Counter(_quantized(config, layer) for layer in range(config.num_hidden_layers)))


def _quantized(config: ModelConfig, layer: int) -> frozenset[str]:
    """A merged linear is whole or not at all: its first part stands for it (specs/hf_config.py takes no other config)."""
    return frozenset(merged for merged, names in MERGED_LINEARS.items() if config.is_in_4bit(layer, names[0]))


def num_quantized(config: ModelConfig, linear: str) -> int:
    """In how many layers this one of vLLM's linears is in 4 bits."""
    return sum(count for linears, count in kinds_of_layers(config).items() if linear in linears)


def is_supported(skip_modules: tuple[str, ...]) -> bool:
    """Whether unsloth has vLLM load a dynamic quant, and does not take the plain checkpoint instead.

    Every module must be a block of a layer, or lie within one that is named too (unsloth_zoo/vllm_utils.py:346-376).
    """
    parents = [name for name in skip_modules if "." not in name or name.rsplit(".", 1)[0][-1:].isdigit()]
    return all(any(parent in name for parent in parents) for name in skip_modules)
