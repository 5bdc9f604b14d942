"""The peak of a training on a CPU: the largest resident set of the process, libraries included.

Fitted to runs of SmolLM2 135M in 4-bit on one machine (`RUNS` of tests/test_cpu_train_peak.py: x86-64, 2 cores, 24 GiB, Python 3.11,
torch 2.5.1+cu124), batches of 32 to 1,024 tokens.
"""

from __future__ import annotations

from loadcheck.predict.terms import Term, total
from loadcheck.specs.profile import Profile
from loadcheck.specs.shape import ModelConfig
from loadcheck.specs.training import TrainSettings
from loadcheck.stacks.transformers_cpu.peak import ATTACHING_BYTES, LIBRARIES_BYTES, was_measured
from loadcheck.stacks.transformers_cpu.prediction import cpu_weights
from loadcheck.stacks.unsloth_vllm.adapters import adapter_memory

TRAINER_BYTES = 190_000_000
"""trl, datasets and pyarrow after import, and what a first backward pass leaves behind."""
TOKEN_BYTES, CHECKPOINTED_TOKEN_BYTES = 2_450_000, 1_600_000
"""Per token of the batch: its logits and their gradients in float32, and the activations of 30 layers or, with checkpointing, of one."""
ADAPTER_SHARE = 2.26
"""Gradients and the optimizer's two states, in proportion to the adapters: less than the three copies that are held, because malloc reuses memory."""
SLACK = 0.25
"""Half of the band. The runs are within 6 % of the prediction; the libraries' mapped files differ between machines (peak.py)."""


def cpu_train_peak(config: ModelConfig, profile: Profile, settings: TrainSettings) -> Term | None:
    """The peak in bytes as a tree; None where it was never measured: for other models, 16-bit, and GRPO."""
    if (
        not was_measured(config)
        or config.quantization != "nf4"
        or profile.adapters is None
        or settings.method == "grpo"
    ):
        return None
    adapters = adapter_memory(config, profile.adapters).num_bytes
    per_token = CHECKPOINTED_TOKEN_BYTES if profile.adapters.use_gradient_checkpointing else TOKEN_BYTES
    parts = [
        Term("libraries", LIBRARIES_BYTES + TRAINER_BYTES, "measured"),
        cpu_weights(config),
        Term("output layer in float32", 4 * config.vocab_size * config.hidden_size, "transformers_cpu/engine.py"),
        Term("adapters", adapters, "fp32"),
        Term("attaching", ATTACHING_BYTES, "measured"),
        Term("gradients and optimizer", round(ADAPTER_SHARE * adapters), "fitted"),
        Term("batch", per_token * settings.rows * settings.row_tokens, "fitted"),
    ]
    return total("train_peak_host", parts)
