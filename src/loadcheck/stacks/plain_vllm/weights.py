"""The weights as torch's allocator counts them in its default configuration: every large tensor in the order in which vLLM creates it.

Equal to the printed digit in two public logs of vLLM 0.7 without unsloth: 5.2032 (Qwen2.5 7B in NF4, vllm #13882) and 14.9888
(Llama 3.1 8B in 16 bits, 2025-03-25).
"""

from __future__ import annotations

from functools import lru_cache

from loadcheck.predict.terms import Term, total
from loadcheck.specs.shape import ModelConfig
from loadcheck.stacks.plain_vllm.allocator import Allocator, tight
from loadcheck.stacks.unsloth_vllm.allocator import rounding_by
from loadcheck.stacks.unsloth_vllm.quantization import MERGED_LINEARS
from loadcheck.stacks.unsloth_vllm.weights import DTYPE_BYTES, NF4_BLOCK, embedding_rows, head_rows, weights

FP32_BYTES = 4


@lru_cache(maxsize=64)
def plain_weights(config: ModelConfig, max_loras: int = 1) -> Term:
    """The weights figure: every tensor, plus the excess of blocks that are larger than their tensors; `max_loras` as in `weights`."""
    with rounding_by(tight):
        parts = weights(config, max_loras).parts
    more = _larger_blocks(config, max_loras)
    slack = Term(
        "blocks larger than their tensors", more, "torch 2.5.1 c10/cuda/CUDACachingAllocator.cpp: should_split"
    )
    return total("weights", [*parts, slack], "vllm/worker/model_runner.py:1109-1116")


def _larger_blocks(config: ModelConfig, max_loras: int) -> int:
    """The excess bytes. Only tensors above 1 MiB can cause them, so smaller ones are left out."""
    memory = _WeightMemory()
    memory.keep(DTYPE_BYTES * config.hidden_size * embedding_rows(config, max_loras))
    for layer in range(config.num_hidden_layers):
        for merged, names in MERGED_LINEARS.items():
            elements = sum(config.linears[name][0] * config.linears[name][1] for name in names)
            memory.keep(elements // 2 if config.is_in_4bit(layer, names[0]) else DTYPE_BYTES * elements)
            if layer == 0 and merged == "o_proj":
                _rope(config, memory)
    head_bytes = DTYPE_BYTES * config.hidden_size * head_rows(config, max_loras)
    head = memory.allocator.allocate(head_bytes)
    if config.tie_word_embeddings:  # created, then replaced by the embedding
        memory.allocator.free(head)
    else:
        memory.exact_bytes += tight(head_bytes)
    _absmax(config, memory)
    return memory.allocator.allocated_bytes - memory.exact_bytes


def _rope(config: ModelConfig, memory: _WeightMemory) -> None:
    """cos and sin of all positions in fp32, concatenated, then in 16 bits (vllm/model_executor/layers/rotary_embedding.py:98-130)."""
    half = FP32_BYTES * config.rope_cache_tokens * (config.head_dim // 2)
    temporaries = [memory.allocator.allocate(half) for _ in range(3)]
    both = memory.allocator.allocate(2 * half)
    for block in temporaries:
        memory.allocator.free(block)
    memory.keep(DTYPE_BYTES * config.rope_cache_tokens * config.head_dim)
    memory.allocator.free(both)


def _absmax(config: ModelConfig, memory: _WeightMemory) -> None:
    """The only tensor of a quantization state that may be large (vllm/model_executor/model_loader/loader.py:862-951)."""
    for layer in range(config.num_hidden_layers):
        for name, (num_in, num_out) in config.linears.items():
            if config.is_in_4bit(layer, name):
                memory.keep(-(-num_in * num_out // NF4_BLOCK))


class _WeightMemory:
    """An allocator, and the sum of the tensors that stay, each in a tight block."""

    def __init__(self) -> None:
        self.allocator, self.exact_bytes = Allocator(), 0

    def keep(self, num_bytes: int) -> None:
        self.allocator.allocate(num_bytes)
        self.exact_bytes += tight(num_bytes)
