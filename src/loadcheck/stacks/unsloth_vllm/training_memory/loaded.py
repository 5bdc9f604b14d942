"""What torch holds after the model is loaded and its adapters are attached, before the trainer is created."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from loadcheck.predict import Prediction
from loadcheck.predict.terms import Term, total
from loadcheck.specs.profile import Profile
from loadcheck.specs.shape import ModelConfig
from loadcheck.stacks.unsloth_vllm.activation import cublas_workspace
from loadcheck.stacks.unsloth_vllm.allocator import rounded
from loadcheck.stacks.unsloth_vllm.kv import kv_cache_memory
from loadcheck.stacks.unsloth_vllm.outside_budget import HF_ROPE, SAMPLING, adapter_extras, engine_extras
from loadcheck.stacks.unsloth_vllm.slots import lora_slots
from loadcheck.stacks.unsloth_vllm.weights import DTYPE_BYTES, nf4_state_sizes, weights


def loaded_model(config: ModelConfig, profile: Profile, engine: Prediction | None, compute_capability: float) -> Term:
    """All but adapters, rotary tables and vLLM's sampling tensors, which change during training and belong to the steps.

    `engine` is the load's prediction where vLLM is used, None where transformers alone loads the model. Equal to the byte to torch's
    allocated bytes before the trainer in both cases (5,900,935,168 and 50,382,027,776 in tests/sweeps/test_train_truth.py).
    """
    parts = [*_by_transformers(config)] if engine is None else [*_by_vllm(config, profile, engine, compute_capability)]
    parts.append(adapter_extras(config, profile.max_seq_length))
    return total("loaded model", parts)


def positions(config: ModelConfig, profile: Profile) -> int:
    """max_position_embeddings as unsloth sets it (unsloth/models/llama.py:1755)."""
    return max(profile.max_seq_length, config.max_position_embeddings)


def rope_tables(config: ModelConfig, tokens: int) -> tuple[int, int]:
    """Bytes of the cos and sin tables for this many positions (unsloth/models/llama.py:1231-1245)."""
    return (DTYPE_BYTES * tokens * config.head_dim,) * 2


def _by_vllm(config: ModelConfig, profile: Profile, engine: Prediction, compute_capability: float) -> Iterator[Term]:
    """vLLM's tensors, which the trained model shares (unsloth_zoo/vllm_utils.py:381-487, 543-694)."""
    figures = engine.figures
    length, num_seqs, blocks = figures.max_model_len, figures.max_num_seqs, figures.num_gpu_blocks
    assert length is not None and num_seqs is not None and blocks is not None
    yield weights(config)
    yield lora_slots(config, profile.max_lora_rank, length, num_seqs)
    yield kv_cache_memory(config, blocks)
    has_graphs = bool(figures.num_cuda_graphs)
    extras = engine_extras(config, length, num_seqs, compute_capability, has_graphs)
    yield total(extras.name, [part for part in extras.parts if part.name not in (SAMPLING, HF_ROPE)])
    if has_graphs:  # the capture stream has its own workspace
        yield replace(cublas_workspace(compute_capability), name="cuBLAS workspace of the graphs")


def _by_transformers(config: ModelConfig) -> Iterator[Term]:
    """Every tensor of the model as transformers holds it (transformers/modeling_utils.py; bitsandbytes QuantState.from_dict)."""
    num_layers = config.num_hidden_layers
    for name, (num_in, num_out) in config.linears.items():
        quantized = sum(config.is_in_4bit(layer, name) for layer in range(num_layers))
        sizes = _nf4_sizes(num_in * num_out)
        parts = [Term(f"{name} {part}", quantized * rounded(size), _NF4) for part, size in sizes.items()]
        whole = (num_layers - quantized) * rounded(DTYPE_BYTES * num_in * num_out)
        yield total(name, [*parts, Term(f"{name} weight", whole, "transformers/modeling_utils.py")])
    biases = {"q_proj": config.qkv_bias, "k_proj": config.qkv_bias, "v_proj": config.qkv_bias, "o_proj": config.o_bias}
    biases |= dict.fromkeys(("gate_proj", "up_proj", "down_proj"), config.mlp_bias)
    for name, has_bias in biases.items():
        size = num_layers * rounded(DTYPE_BYTES * config.linears[name][1])
        yield Term(f"{name} bias", has_bias * size, "transformers/models/*/modeling_*.py")
    norms = (2 * num_layers + 1) * rounded(DTYPE_BYTES * config.hidden_size)
    yield Term("norms", norms, "transformers/models/llama/modeling_llama.py:312-313, 500")
    table = rounded(DTYPE_BYTES * config.vocab_size * config.hidden_size)
    yield Term("embed_tokens", table, "transformers/models/llama/modeling_llama.py:496")
    yield Term("lm_head", (not config.tie_word_embeddings) * table, "transformers/models/llama/modeling_llama.py:753")


_NF4 = "bitsandbytes/functional.py: QuantState"


def _nf4_sizes(elements: int) -> dict[str, int]:
    """The tensors of one linear in 4-bit with double quantization."""
    return {"packed": elements // 2, **nf4_state_sizes(elements)}
