"""Device memory outside vLLM's budget: what unsloth's Hugging Face model keeps, and what training adds.

Equal to the byte to torch's allocated bytes after the load, after get_peft_model and after three training steps in
tests/runs/h100_llama31-8b_synthetic.txt (its lines beginning MEM).
"""

from __future__ import annotations

from loadcheck.predict.terms import Term, total
from loadcheck.specs.profile import Profile
from loadcheck.specs.shape import ModelConfig
from loadcheck.stacks.unsloth_vllm.activation import cublas_workspace, lora_pointers
from loadcheck.stacks.unsloth_vllm.adapters import adapter_memory
from loadcheck.stacks.unsloth_vllm.allocator import rounded
from loadcheck.stacks.unsloth_vllm.graphs import capture_sizes
from loadcheck.stacks.unsloth_vllm.kv import BLOCK_TOKENS
from loadcheck.stacks.unsloth_vllm.weights import DTYPE_BYTES

SAMPLING = "sampling tensors"
HF_ROPE = "Hugging Face rope tables"
HF_ROPE_TOKENS = 32_768
"""The initial number of positions in unsloth's rotary tables (unsloth/models/llama.py:1225-1244 at 2025.2.5)."""
RNG_STATE_BYTES = 1024
"""Seed and offset of the graphs' random number generator (torch 2.5.1 aten/src/ATen/cuda/CUDAGraph.cpp)."""
RETURN_LOGITS_TOKENS = 1024
"""unsloth keeps the logits of training batches of up to this many tokens (unsloth/models/llama.py:1070)."""


def engine_extras(
    config: ModelConfig, max_model_len: int, max_num_seqs: int, compute_capability: float, captures_graphs: bool
) -> Term:
    """What the engine keeps beside weights, slots, KV cache and graphs once it is ready."""
    sampling = sum(map(rounded, sampling_tensors(max_num_seqs)))
    parts = [
        cublas_workspace(compute_capability),
        lora_pointers(config),
        Term("graph inputs", _graph_inputs(max_model_len, max_num_seqs) if captures_graphs else 0,
             "vllm/worker/model_runner.py:1419-1563"),
        Term(SAMPLING, sampling, "vllm/model_executor/sampling_metadata.py"),
        Term(HF_ROPE, _hf_rope(config, HF_ROPE_TOKENS), "unsloth/models/llama.py:1225-1244"),
    ]  # fmt: skip
    return total("engine extras", parts)


def sampling_tensors(num_seqs: int) -> list[int]:
    """Bytes of the tensors that vLLM's sampler keeps from its last batch (vllm/model_executor/sampling_metadata.py)."""
    return [2 * num_seqs] * 6 + [4 * num_seqs]


def _graph_inputs(max_model_len: int, max_num_seqs: int) -> int:
    """The input buffers shared by all graphs, and the state of their random number generator."""
    largest = capture_sizes(max_num_seqs)[-1]
    blocks_per_seq = -(-min(8192, max_model_len) // BLOCK_TOKENS)
    inputs = 3 * rounded(8 * largest) + rounded(4 * largest) + rounded(4 * largest * blocks_per_seq)
    return inputs + RNG_STATE_BYTES


def _hf_rope(config: ModelConfig, tokens: int) -> int:
    """cos and sin tables of at most this many positions."""
    number_bytes = config.architecture.rope_table_bytes
    return 2 * rounded(number_bytes * min(tokens, config.max_position_embeddings) * config.head_dim)


def adapter_extras(config: ModelConfig, max_seq_length: int) -> Term:
    """extra_ignored_labels, int64, for the longest length that the model supports (unsloth/models/llama.py:2609)."""
    return Term("ignored labels", rounded(8 * max(max_seq_length, config.max_position_embeddings)),
                "unsloth/models/llama.py:2609")  # fmt: skip


def training_memory(config: ModelConfig, profile: Profile, num_tokens: int, compute_capability: float) -> Term:
    """What training steps on `num_tokens` tokens add at their peak, which for short batches is in the optimizer's step."""
    if profile.adapters is None:
        return total("training", [])
    adapter = adapter_memory(config, profile.adapters).num_bytes
    largest = max(config.intermediate_size * config.hidden_size, config.q_size * config.hidden_size)
    quantized = config.quantization == "nf4"
    kept_logits = num_tokens if num_tokens <= RETURN_LOGITS_TOKENS else 0
    grown_rope = _hf_rope(config, config.max_position_embeddings) - _hf_rope(config, HF_ROPE_TOKENS)
    parts = [
        Term("Adam states, fp32", 2 * adapter, "torch.optim.AdamW"),
        Term("gradients", adapter, "fp32, as the adapters"),
        Term("optimizer's temporaries", adapter, "torch.optim.AdamW, foreach: one square root of every state"),
        Term("dequantized weight", quantized * rounded(DTYPE_BYTES * largest), "unsloth/kernels/utils.py:126-168"),
        Term("dequantized absmax", quantized * rounded(4 * -(-largest // 64)), "unsloth/kernels/utils.py:126-168"),
        cublas_workspace(compute_capability),
        Term("Hugging Face rope tables, grown", grown_rope, "unsloth/models/llama.py:811-817"),
        Term("logits", rounded(DTYPE_BYTES * kept_logits * config.vocab_size), "unsloth/models/llama.py:1070"),
        Term("input embeddings and their gradient", 2 * rounded(DTYPE_BYTES * num_tokens * config.hidden_size),
             "unsloth's gradient checkpointing"),
    ]  # fmt: skip
    return total("training", parts)
