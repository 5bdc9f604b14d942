"""vLLM's KV cache: the size of a block, and the size of the cache."""

from __future__ import annotations

from loadcheck.predict.terms import Term
from loadcheck.specs.profile import Profile
from loadcheck.specs.shape import ModelConfig
from loadcheck.stacks.unsloth_vllm.allocator import rounded

BLOCK_TOKENS = 16
"""Tokens per block on CUDA (vllm/platforms/cuda.py:142-144 at 0.7.2)."""
KV_DTYPE_BYTES = 2
_NUMBER_BYTES = {"auto": KV_DTYPE_BYTES, "bfloat16": 2, "float16": 2, "fp8": 1, "fp8_e4m3": 1, "fp8_e5m2": 1}
"""vllm/utils.py: STR_DTYPE_TO_TORCH_DTYPE."""


def block_bytes(num_layers: int, kv_size: int, number_bytes: int = KV_DTYPE_BYTES) -> int:
    """Bytes of one block: keys and values of 16 tokens in all layers (vllm/worker/cache_engine.py:140-167 at 0.7.2)."""
    return 2 * number_bytes * num_layers * BLOCK_TOKENS * kv_size


def number_bytes(kv_cache_dtype: str | None) -> int | None:
    """Bytes per number for this kv_cache_dtype, or the model's own where a log does not name one; None for an unknown dtype."""
    return _NUMBER_BYTES.get(kv_cache_dtype or "auto")


def kv_cache_dtype_of(profile: Profile) -> str:
    """vLLM's kv_cache_dtype for the profile."""
    return "fp8" if profile.float8_kv_cache else "auto"


def config_block_bytes(config: ModelConfig) -> int:
    return block_bytes(config.num_hidden_layers, config.kv_size, config.kv_number_bytes)


def kv_cache_memory(config: ModelConfig, num_blocks: int) -> Term:
    """The memory of the cache: one tensor per layer, each rounded up (vllm/worker/cache_engine.py:99-115 at 0.7.2)."""
    layer = num_blocks * config_block_bytes(config) // config.num_hidden_layers
    return Term("kv_cache", config.num_hidden_layers * rounded(layer), "vllm/worker/cache_engine.py:99-115")
