""" "Loading model weights took X GB": every tensor of the model as vLLM holds it, rounded like the allocator does.

vllm 0.7.2: worker/model_runner.py:1109-1116 measures torch's allocated bytes around get_model. LoRA buffers are created later and not
included.
"""

from __future__ import annotations

from collections.abc import Iterator

from loadcheck.predict.terms import Term, total
from loadcheck.specs.shape import ModelConfig
from loadcheck.stacks.unsloth_vllm.allocator import cached, rounded
from loadcheck.stacks.unsloth_vllm.quantization import MERGED_LINEARS, num_quantized
from loadcheck.units import round_up

DTYPE_BYTES = 2
VOCAB_PADDING = 64
LORA_VOCAB_PADDING = 256
LORA_EXTRA_VOCAB = 256
"""Rows that LoRA adds to the vocabulary of llama and mistral (vllm/config.py:2095 lora_extra_vocab_size, which unsloth leaves at its default;
models/llama.py:494-517)."""

# bitsandbytes/functional.py quantize_4bit: one absmax per 64 weights; these are in turn quantized in blocks of 256.
NF4_BLOCK = 64
NF4_NESTED_BLOCK = 256


def extended_vocab(config: ModelConfig) -> int:
    """Rows of the embedding and of the logits: llama and mistral reserve room for LoRA's extra tokens, qwen2 does not.

    vllm/model_executor/models/llama.py:309-320, 494-509; models/qwen2.py:434-442.
    """
    return config.vocab_size + (LORA_EXTRA_VOCAB if config.lora_vocabulary else 0)


def embedding_rows(config: ModelConfig, max_loras: int = 1) -> int:
    """Rows of the embedding table (vllm/model_executor/layers/vocab_parallel_embedding.py:195-240).

    It has LoRA's extra tokens once per adapter that may run at once; the head has them once (vllm/model_executor/models/llama.py:309-320).
    """
    padded = round_up(config.vocab_size, VOCAB_PADDING)
    return round_up(padded + max_loras * LORA_EXTRA_VOCAB, VOCAB_PADDING) if config.lora_vocabulary else padded


def head_rows(config: ModelConfig, max_loras: int = 1) -> int:
    """Rows of the head, which is the embedding where they are tied (vllm/model_executor/models/llama.py:494-509).

    llama and mistral pad it to 256 for LoRA's kernels.
    """
    if config.tie_word_embeddings or not config.lora_vocabulary:
        return embedding_rows(config, max_loras)
    return round_up(round_up(config.vocab_size, LORA_VOCAB_PADDING) + LORA_EXTRA_VOCAB, LORA_VOCAB_PADDING)


@cached(maxsize=64)
def weights(config: ModelConfig, max_loras: int = 1) -> Term:
    """The weights figure as a tree; cached, because a search for settings needs it hundreds of times.

    Args:
        max_loras: adapters that may run at once: one with unsloth (vllm/engine/arg_utils.py:146), all of them in a server.
    """
    return total("weights", [_layers(config), *_outside(config, max_loras)], "vllm/worker/model_runner.py:1109-1116")


def _layers(config: ModelConfig) -> Term:
    parts = [*_linears(config), *_small(config)]
    return total(f"{config.num_hidden_layers} layers", parts)


def _linears(config: ModelConfig) -> Iterator[Term]:
    """For each of vLLM's linears, the bytes of its 4-bit layers and of its 16-bit layers."""
    for merged, names in MERGED_LINEARS.items():
        elements = {name: config.linears[name][0] * config.linears[name][1] for name in names}
        in_4bit = num_quantized(config, merged)
        yield Term(f"{merged} packed", in_4bit * rounded(sum(elements.values()) // 2),
                   "vllm/model_executor/layers/quantization/bitsandbytes.py:190-210")  # fmt: skip
        yield total(f"{merged} quantization state", [_quant_state(name, n, in_4bit) for name, n in elements.items()])
        in_16bit = config.num_hidden_layers - in_4bit
        yield Term(f"{merged} weight", in_16bit * rounded(DTYPE_BYTES * sum(elements.values())),
                   "vllm/model_executor/layers/linear.py:124-139")  # fmt: skip


def nf4_state_sizes(elements: int) -> dict[str, int]:
    """The quantization state of one Hugging Face linear, beside its packed weights: NF4 with double quantization."""
    absmax = -(-elements // NF4_BLOCK)
    return {
        "absmax": absmax,
        "nested absmax": 4 * -(-absmax // NF4_NESTED_BLOCK),
        "code": 4 * 16,
        "nested code": 4 * 256,
        "offset": 4,  # created on the GPU by unsloth_zoo/vllm_utils.py:262-272
    }


def _quant_state(name: str, elements: int, num_layers: int) -> Term:
    source, sizes = "vllm/model_executor/model_loader/loader.py:862-951", nf4_state_sizes(elements)
    return total(name, [Term(f"{name} {part}", num_layers * rounded(size), source) for part, size in sizes.items()])


def _small(config: ModelConfig) -> Iterator[Term]:
    num_layers = config.num_hidden_layers
    biases = {
        "qkv bias": config.qkv_bias * (config.q_size + 2 * config.kv_size),
        "o bias": config.o_bias * config.hidden_size,
        "gate_up bias": config.mlp_bias * 2 * config.intermediate_size,
        "down bias": config.mlp_bias * config.hidden_size,
    }
    for name, elements in biases.items():
        yield Term(name, num_layers * rounded(DTYPE_BYTES * elements), "vllm/model_executor/models/llama.py:128-160")
    norm = rounded(DTYPE_BYTES * config.hidden_size)
    yield Term("norms", num_layers * 2 * norm, "vllm/model_executor/layers/layernorm.py")
    # _k_scale, _v_scale, k_range, v_range: fp32 scalars
    yield Term("attention scalars", num_layers * 4 * rounded(4), "vllm/attention/layer.py:80-81, 148-149")


def _outside(config: ModelConfig, max_loras: int) -> Iterator[Term]:
    row = DTYPE_BYTES * config.hidden_size
    yield Term("embed_tokens", rounded(row * embedding_rows(config, max_loras)),
               "vllm/model_executor/layers/vocab_parallel_embedding.py:195-240")  # fmt: skip
    if not config.tie_word_embeddings:
        yield Term("lm_head", rounded(row * head_rows(config)), "vllm/model_executor/models/llama.py:494-509")
    yield Term("normalizer", rounded(DTYPE_BYTES * config.architecture.normalizer),
               "vllm/model_executor/models/gemma.py:288-289")  # fmt: skip
    yield Term("final norm", rounded(DTYPE_BYTES * config.hidden_size), "vllm/model_executor/layers/layernorm.py")
    rope = DTYPE_BYTES * config.rope_cache_tokens * config.head_dim
    yield Term("rope cache", rounded(rope), "vllm/model_executor/layers/rotary_embedding.py:98-101, 988-1017")
