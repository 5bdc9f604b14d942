"""vLLM's LoRA slots: buffers for each adapter that may run at once, at the largest rank. They are outside vLLM's budget."""

from __future__ import annotations

from collections.abc import Iterator

from loadcheck.predict.terms import Term, total
from loadcheck.specs.shape import ModelConfig
from loadcheck.stacks.unsloth_vllm.allocator import cached, rounded
from loadcheck.stacks.unsloth_vllm.weights import DTYPE_BYTES, LORA_EXTRA_VOCAB, LORA_VOCAB_PADDING
from loadcheck.units import round_up


@cached(maxsize=1024)
def lora_slots(config: ModelConfig, max_lora_rank: int, num_tokens: int, num_seqs: int, max_loras: int = 1) -> Term:
    """The slots of all layers, embeddings and logits for `max_loras` adapters at once, and their index buffers.

    `num_tokens` is max_num_batched_tokens. Equal to the byte to a trace of vLLM's own classes for 13 models with one adapter. Each slot
    tensor has `max_loras` as its first dimension (vllm/lora/layers.py: 170-198, 319-336, 588-605, 972-1000); the indices do not grow.
    """
    slots = [*_linears(config, max_lora_rank, max_loras), *_vocabulary(config, max_lora_rank, max_loras)]
    parts = [*slots, _indices(num_tokens, num_seqs)]
    return total("lora_slots", parts, "vllm/lora/layers.py:319-336, 588-605")


def slots_only(config: ModelConfig, max_lora_rank: int) -> int:
    """Bytes of the slots' own tensors, without index buffers and rounding: the sum over the model's buffers."""
    linears = sum(num_in + num_out for num_in, num_out in config.linears.values()) * config.num_hidden_layers
    elements = linears * max_lora_rank
    if config.lora_vocabulary:
        a_rows = config.vocab_size + LORA_EXTRA_VOCAB
        rows = a_rows + round_up(a_rows, LORA_VOCAB_PADDING) + 2 * config.hidden_size
        elements += rows * max_lora_rank + 2 * LORA_EXTRA_VOCAB * config.hidden_size
    return DTYPE_BYTES * elements


def _indices(num_tokens: int, num_seqs: int) -> Term:
    """int64 index buffers: four of num_tokens, one of twice that, three of num_seqs."""
    sizes = [*[8 * num_tokens] * 4, 16 * num_tokens, *[8 * num_seqs] * 3]
    return Term("indices", sum(rounded(size) for size in sizes), "vllm/lora/punica_wrapper/punica_base.py:129-160")


def _linears(config: ModelConfig, rank: int, max_loras: int) -> Iterator[Term]:
    number = DTYPE_BYTES * max_loras * rank
    for name, (num_in, num_out) in config.linears.items():
        one = rounded(number * num_in) + rounded(number * num_out)
        yield Term(f"{name} A and B", config.num_hidden_layers * one, "vllm/lora/layers.py:319-336, 588-605")


def _vocabulary(config: ModelConfig, rank: int, max_loras: int) -> Iterator[Term]:
    """Embedding and logits; qwen2 has LoRA on neither (vllm/model_executor/models/qwen2.py:434-442)."""
    if not config.lora_vocabulary:
        return
    hidden, number = config.hidden_size, DTYPE_BYTES * max_loras
    extra = rounded(number * LORA_EXTRA_VOCAB * hidden)
    a_rows = config.vocab_size + LORA_EXTRA_VOCAB
    embedding = (extra, rounded(number * a_rows * rank), rounded(number * hidden * rank))
    yield Term("embed_tokens slots", sum(embedding), "vllm/lora/layers.py:170-198")
    logit_rows = round_up(a_rows, LORA_VOCAB_PADDING)
    logits = (extra, rounded(number * rank * hidden), rounded(number * logit_rows * rank))
    yield Term("logits slots", sum(logits), "vllm/lora/layers.py:972-1000")
