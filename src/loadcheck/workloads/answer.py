"""A full batch of answers in vLLM: what its sampler holds while all sequences run at once."""

from __future__ import annotations

from loadcheck.predict.terms import Term, total
from loadcheck.specs.shape import ModelConfig
from loadcheck.stacks.unsloth_vllm.allocator import rounded
from loadcheck.stacks.unsloth_vllm.weights import DTYPE_BYTES, extended_vocab, head_rows

SAMPLER = "vllm/model_executor/layers/sampler.py"


def sampled_batch(config: ModelConfig, num_seqs: int) -> Term:
    """The peak of torch's allocated bytes above what stays, for answers drawn by temperature alone.

    vLLM's profile run, by which `predict` states the full batch, sorts the logits for top-k and top-p (stacks/unsloth_vllm/activation.py:
    sampler_peak). Without either, nothing is sorted: on an H100, 226 sequences of Llama 3.1 8B took 640,203,776 bytes, 48,128 more than
    these, and 642,039,296 (rows "busy" of tests/training/truth.tsv), where the profile's batch takes twice as many. So the card held
    48.82 GiB where 49.24 were predicted for a batch that is sorted.
    """
    numbers = num_seqs * extended_vocab(config)
    tensors = {
        "logits, 16-bit": (DTYPE_BYTES * num_seqs * head_rows(config), f"{SAMPLER}:271"),
        "logits, fp32": (4 * numbers, f"{SAMPLER}:271"),
        "probabilities": (4 * numbers, f"{SAMPLER}:283"),
        "log-probabilities": (4 * numbers, f"{SAMPLER}:285"),
        "probabilities of the sequences that are drawn": (4 * numbers, f"{SAMPLER}:794"),
        "exponential noise": (4 * numbers, f"{SAMPLER}: _multinomial"),
    }
    parts = [Term(name, rounded(size), source) for name, (size, source) in tensors.items()]
    return total("full batch, drawn by temperature", parts)
