"""Which of vLLM's linears are in 4 bits, layer by layer: all of them, or a part of them in a dynamic quant.

unsloth replaces vLLM's own test of module names (unsloth_zoo/vllm_utils.py:58-74 at 2025.2.4): a linear stays in 16 bits if one of the
checkpoint's `llm_int8_skip_modules` equals a dotted prefix of its name.
"""

from __future__ import annotations

from collections import Counter
from functools import lru_cache

from loadcheck.specs.shape import ModelConfig

# vLLM's linears of a layer, each with the Hugging Face linears that it merges.
MERGED_LINEARS = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "o_proj": ("o_proj",),
    "gate_up_proj": ("gate_proj", "up_proj"),
    "down_proj": ("down_proj",),
}


@lru_cache(maxsize=256)
def kinds_of_layers(config: ModelConfig) -> dict[frozenset[str], int]:
    """The number of layers of each kind; a kind is the set of vLLM's linears that are in 4 bits."""
    return dict(Counter(_quantized(config, layer) for layer in range(config.num_hidden_layers)))


def _quantized(config: ModelConfig, layer: int) -> frozenset[str]:
    """A merged linear is quantized as a whole, so its first part decides (specs/hf_config.py accepts no other config)."""
    return frozenset(merged for merged, names in MERGED_LINEARS.items() if config.is_in_4bit(layer, names[0]))


def num_quantized(config: ModelConfig, linear: str) -> int:
    """The number of layers in which this vLLM linear is in 4 bits."""
    return sum(count for linears, count in kinds_of_layers(config).items() if linear in linears)


def is_supported(skip_modules: tuple[str, ...]) -> bool:
    """Whether unsloth has vLLM load a dynamic quant, instead of replacing it by the plain checkpoint.

    Every module must be a block of a layer, or be inside one that is listed, too (unsloth_zoo/vllm_utils.py:346-376).
    """
    parents = [name for name in skip_modules if "." not in name or name.rsplit(".", 1)[0][-1:].isdigit()]
    return all(any(parent in name for parent in parents) for name in skip_modules)
