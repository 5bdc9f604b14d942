"""The activation peak of vLLM's memory profile: the larger of two moments, the sampler's sort and the widest layer.

The profile runs N = max_num_seqs prompts that share T = max_num_batched_tokens tokens (vllm/worker/model_runner.py:1231-1352
at 0.7.2). H is hidden_size, I intermediate_size, V the rows of the logits.
"""

from __future__ import annotations

from loadcheck.predict.allocator import rounded
from loadcheck.predict.terms import Term, total
from loadcheck.predict.weights import DTYPE_BYTES, extended_vocab
from loadcheck.specs.model import ModelConfig

# cuBLAS takes its workspace at its first use and keeps it: torch 2.5.1, aten/src/ATen/cuda/CublasHandlePool.cpp
CUBLAS_WORKSPACE_BYTES = 8_519_680
CUBLAS_WORKSPACE_HOPPER_BYTES = 33_554_432
SEGMENTED_SORT_ROWS = 128
"""From so many rows on torch sorts by segments, with less scratch: aten/src/ATen/native/cuda/SortStable.cu."""


def activation_peak(config: ModelConfig, num_tokens: int, num_seqs: int, compute_capability: float) -> Term:
    """The larger of the sampler's peak and the forward's."""
    sampler = sampler_peak(config, num_tokens, num_seqs, compute_capability)
    forward = forward_peak(config, num_tokens, compute_capability)
    return max(sampler, forward, key=lambda term: term.num_bytes)


def cublas_workspace(compute_capability: float) -> Term:
    hopper = compute_capability == 9.0
    return Term("cuBLAS workspace", CUBLAS_WORKSPACE_HOPPER_BYTES if hopper else CUBLAS_WORKSPACE_BYTES,
                "torch 2.5.1 aten/src/ATen/cuda/CublasHandlePool.cpp")  # fmt: skip


def sampler_peak(config: ModelConfig, num_tokens: int, num_seqs: int, compute_capability: float) -> Term:
    """What lives while the logits of all sequences are sorted for top-k and top-p (vllm/model_executor/layers/sampler.py:271, 393)."""
    n = num_seqs * extended_vocab(config)
    source = "vllm/model_executor/layers/sampler.py:271, 393"
    tensors = {
        "hidden states": DTYPE_BYTES * num_tokens * config.hidden_size,
        "logits, 16-bit": 2 * n,
        "logits, fp32": 4 * n,
        "sorted logits": 4 * n,
        "sorted indices": 8 * n,
        **_sort_scratch(n, num_seqs),
    }
    parts = [Term(name, rounded(size), source) for name, size in tensors.items()]
    return total("activation_peak: sampler", [cublas_workspace(compute_capability), *parts], source)


def _sort_scratch(n: int, rows: int) -> dict[str, int]:
    """torch.sort's own buffers for n elements in `rows` rows (aten/src/ATen/native/cuda/SortStable.cu, cub.cuh:124-158)."""
    if rows >= SEGMENTED_SORT_ROWS:
        return {"sort: reverse indices": 8 * n, "sort: scratch": 12 * n + 255}
    return {"sort: pairs in": 8 * n, "sort: pairs out": 8 * n, "sort: keys out": 4 * n, "sort: scratch": 12 * n + 255}


def forward_peak(config: ModelConfig, num_tokens: int, compute_capability: float) -> Term:
    """What lives in the widest moment of a layer's MLP, when its gate_up product is made or used."""
    hidden = DTYPE_BYTES * num_tokens * config.hidden_size
    inner = DTYPE_BYTES * num_tokens * config.intermediate_size
    quantized = config.quantization == "nf4"
    # qwen2 keeps gate_up alive through down_proj (vllm/model_executor/models/qwen2.py:94-98)
    num_hidden = (5 if quantized else 4) if config.model_type == "qwen2" else 3
    parts = [
        cublas_workspace(compute_capability),
        Term(f"{num_hidden} hidden states", num_hidden * rounded(hidden), "vllm/model_executor/models/llama.py:82-88"),
        Term("gate and up", rounded(2 * inner) + rounded(inner), "vllm/model_executor/models/llama.py:82-88"),
    ]
    if quantized:
        dequantized = rounded(DTYPE_BYTES * config.intermediate_size * config.hidden_size)
        parts.append(Term("dequantized weight", dequantized, "bitsandbytes/functional.py dequantize_4bit"))
    return total("activation_peak: forward", parts)
