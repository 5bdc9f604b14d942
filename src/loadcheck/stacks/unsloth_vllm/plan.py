"""unsloth_zoo's plan for vLLM: how much memory it requests, and how many sequences may run at once.

`vllm_utils.py` is that of unsloth_zoo 2025.2.4. Its estimates are rough by design, but they determine vLLM's settings, so they are
reproduced to the bit.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass

from loadcheck.specs.shape import ModelConfig
from loadcheck.stacks.unsloth_vllm.graphs import capture_sizes
from loadcheck.units import GIB

# vllm_utils.py:895-905: (GiB of estimated KV cache up to, sequences). 226 is upstream's own number (its comment says +16).
SEQUENCES_LADDER = ((2, 128), (4, 160), (8, 192), (12, 224), (16, 256), (24, 288), (40, 320), (48, 226), (80, 368))
SEQUENCES_BEYOND = 400
# vllm_utils.py:931-940: (GiB of available RAM up to, GiB of swap space).
SWAP_LADDER = ((4, 0), (8, 1), (12, 2), (16, 3), (24, 4), (48, 5))
SWAP_BEYOND = 6


def step(ladder: tuple[tuple[int, int], ...], beyond: int, value: float) -> int:
    """The value of a ladder's first step whose bound is at least `value`."""
    index = bisect_left([bound for bound, _ in ladder], value)
    return ladder[index][1] if index < len(ladder) else beyond


def num_sequences(kv_estimate_gib: float, conservativeness: float = 1.0, float8: bool = False) -> int:
    """vLLM's max_num_seqs; 5 % more with an 8-bit KV cache (vllm_utils.py:895-908, 928)."""
    sequences = step(SEQUENCES_LADDER, SEQUENCES_BEYOND, kv_estimate_gib)
    return int((int(sequences * 1.05) if float8 else sequences) * conservativeness)


def swap_space_bytes(ram_available_bytes: int) -> int:
    """vLLM's swap_space for a host with this much available RAM (vllm_utils.py:931-940)."""
    return swap_gib(ram_available_bytes / 1024 / 1024 / 1024) * GIB


def swap_gib(ram_available_gib: float) -> int:
    """The same, both in GiB."""
    return step(SWAP_LADDER, SWAP_BEYOND, ram_available_gib)


@dataclass(frozen=True, slots=True)
class EnginePlan:
    """The settings that vLLM is started with; in a load with unsloth, those that it decides.

    Attributes:
        utilization: vLLM's gpu_memory_utilization, a share of the whole card.
        kv_estimate_bytes: unsloth's estimate of the KV cache, used only by its ladder; None for vLLM alone.
        max_model_len: the requested length, or what unsloth cuts it to.
        batched_tokens: vLLM's max_num_batched_tokens; None where it equals max_model_len, as with unsloth.
        cut_from: the requested length if it is cut; else None.
        cut_printed: the length that unsloth then prints, which is 256 where its estimate leaves nothing.
        captures_graphs: whether CUDA graphs are captured, one for each of graph_sizes.
    """

    utilization: float
    kv_estimate_bytes: float | None
    max_model_len: int
    max_num_seqs: int
    swap_bytes: int
    cut_from: int | None = None
    cut_printed: int | None = None
    batched_tokens: int | None = None
    captures_graphs: bool = True

    @property
    def graph_sizes(self) -> list[int]:
        """The batch sizes for which CUDA graphs are captured, ascending."""
        return capture_sizes(max(self.max_num_seqs, 1)) if self.captures_graphs else []

    @property
    def num_batched_tokens(self) -> int:
        """vLLM's max_num_batched_tokens."""
        return self.max_model_len if self.batched_tokens is None else self.batched_tokens


def unsloth_plan(
    config: ModelConfig,
    *,
    total_bytes: int,
    free_bytes: int,
    max_seq_length: int,
    max_lora_rank: int,
    gpu_memory_utilization: float,
    conservativeness: float,
    swap_bytes: int,
) -> EnginePlan:
    """approximate_vllm_memory_usage and load_vllm (vllm_utils.py:698-940), with the same order of floating-point operations."""
    wanted: float = gpu_memory_utilization * free_bytes
    activation = _training_activation(config, max_seq_length)
    if total_bytes - wanted < activation:
        wanted = total_bytes - activation
    left = kv_estimate(config, wanted, max_lora_rank)
    num_tokens = int(0.95 * (left / _token_bytes(config))) // 256 * 256
    length = max_seq_length
    if num_tokens <= 0:
        length = num_tokens = 256
    printed = length if num_tokens <= length else None
    length = min(length, num_tokens)
    return EnginePlan(
        utilization=wanted / total_bytes,
        kv_estimate_bytes=left,
        max_model_len=length,
        max_num_seqs=num_sequences(left / 1024 / 1024 / 1024, conservativeness, config.kv_number_bytes == 1),
        swap_bytes=swap_bytes,
        cut_from=None if printed is None else max_seq_length,
        cut_printed=printed,
    )


def kv_estimate(config: ModelConfig, budget_bytes: float, max_lora_rank: int) -> float:
    """unsloth's estimate, in bytes, of the KV cache that a budget leaves (vllm_utils.py:766-775); at least 0."""
    return max(budget_bytes - _model_estimate(config, max_lora_rank), 0)


def largest_budget_bytes(config: ModelConfig, total_bytes: int, free_bytes: int, max_seq_length: int) -> int:
    """vLLM's budget at utilization 1: all free memory, or what training on this length leaves of the card; at least 0."""
    return max(int(min(free_bytes, total_bytes - _training_activation(config, max_seq_length))), 0)


def kv_estimate_needed(config: ModelConfig, max_seq_length: int) -> int:
    """The bytes that unsloth's estimate must leave so that it does not cut `max_seq_length`: more tokens than that, in steps of 256."""
    num_tokens = 256 * (max_seq_length // 256 + 1)
    return math.ceil(num_tokens * _token_bytes(config) / 0.95)


def _token_bytes(config: ModelConfig) -> float:
    """One token in the KV cache; unsloth counts 1.25 bytes for an 8-bit number (vllm_utils.py:773-775)."""
    return _kv_size(config) * 2 * config.num_hidden_layers * (1.25 if config.kv_number_bytes == 1 else 2)


def _kv_size(config: ModelConfig) -> int:
    """unsloth computes the head size as hidden_size / heads and ignores head_dim (vllm_utils.py:722)."""
    return config.hidden_size // config.num_attention_heads * config.num_key_value_heads


def _training_activation(config: ModelConfig, max_seq_length: int) -> float:
    """vllm_utils.py:750-759, for a batch of 2."""
    tokens = max_seq_length * 2
    qkv = tokens * (config.hidden_size + _kv_size(config) + _kv_size(config))
    mlp = tokens * (config.intermediate_size + config.intermediate_size)
    return ((qkv + tokens * 2 + mlp + config.intermediate_size * config.hidden_size) * 1.25) * 2


def _model_estimate(config: ModelConfig, max_lora_rank: int) -> float:
    """vllm_utils.py:722-741, 766-770: 5 bits per quantized weight, and adapters on every linear."""
    hidden, inner, kv, rank = config.hidden_size, config.intermediate_size, _kv_size(config), max_lora_rank
    layers = config.num_hidden_layers
    linears = ((hidden + kv + kv + hidden) * hidden + hidden * inner * 3) * layers * 2
    outside = (2 * hidden + config.vocab_size * hidden * (1 if config.tie_word_embeddings else 2)) * 2
    lora = hidden * rank * 4 + rank * (hidden + kv + kv + hidden)
    lora += hidden * rank * 2 + inner * rank + rank * (inner + inner) + rank * hidden
    factor = 16 / 5 if config.quantization == "nf4" else 1
    return linears / factor + outside + lora * layers * 2
