"""A full batch in vLLM: what a step holds while all sequences run at once, beyond what stays between steps."""

from __future__ import annotations

from loadcheck.predict.terms import Term, total
from loadcheck.specs.shape import ModelConfig
from loadcheck.stacks.unsloth_vllm.activation import forward_peak, step_inputs
from loadcheck.stacks.unsloth_vllm.allocator import rounded
from loadcheck.stacks.unsloth_vllm.weights import DTYPE_BYTES, extended_vocab, head_rows

SAMPLER = "vllm/model_executor/layers/sampler.py"


def sampled_batch(config: ModelConfig, num_tokens: int, num_seqs: int, compute_capability: float) -> Term:
    """The peak of torch's allocated bytes in a step that samples by temperature alone, as vLLM does by default.

    vLLM's profile run (activation.sampler_peak) also sorts the logits for top-k and top-p; without these nothing is sorted. On an H100
    226 sequences of Llama 3.1 8B took 640,203,776 bytes, 29,696 more than predicted here (rows "busy" of tests/training/truth.tsv), and
    the card held 48.82 GiB, where a sorted batch would take 49.24.
    """
    sampled = sampler_without_sort(config, num_seqs)
    forward = forward_peak(config, num_tokens, compute_capability)
    largest = max(sampled, forward, key=lambda term: term.num_bytes)
    return total(f"full batch ({largest.name})", [*largest.parts, step_inputs(num_tokens, num_seqs)], largest.source)


def sampler_without_sort(config: ModelConfig, num_seqs: int) -> Term:
    """The live tensors while the next token of every sequence is sampled."""
    numbers = num_seqs * extended_vocab(config)
    tensors = {
        "logits, 16-bit": (DTYPE_BYTES * num_seqs * head_rows(config), f"{SAMPLER}:271"),
        "logits, fp32": (4 * numbers, f"{SAMPLER}:271"),
        "probabilities": (4 * numbers, f"{SAMPLER}:283"),
        "log-probabilities": (4 * numbers, f"{SAMPLER}:285"),
        "probabilities of the sequences that are drawn": (4 * numbers, f"{SAMPLER}:794"),
        "exponential noise": (4 * numbers, f"{SAMPLER}: _multinomial"),
    }
    return total("sampler", [Term(name, rounded(size), source) for name, (size, source) in tensors.items()], SAMPLER)
