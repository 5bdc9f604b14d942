"""The peak of a load on a CPU: the largest resident set of the whole process, libraries included.

What follows from the model is exact; the libraries' part and what training keeps are fitted to runs of SmolLM2 135M on one machine
(`RUNS` of tests/test_cpu_peak.py: x86-64, 2 cores, 24 GiB, Python 3.11, torch 2.5.1+cu124).
"""

from __future__ import annotations

from loadcheck.predict.band import Band
from loadcheck.predict.terms import Term, total
from loadcheck.specs.profile import Profile
from loadcheck.specs.shape import ModelConfig
from loadcheck.stacks.unsloth_vllm.adapters import adapter_memory

MEASURED_SHAPE = (30, 576, 49152)
"""Layers, hidden size and vocabulary of SmolLM2 135M."""
LIBRARIES_BYTES = 577_000_000
"""torch, transformers, peft and bitsandbytes after import, with Python: 339 MB of mapped files and 238 MB of their own memory."""
ATTACHING_BYTES = 9_000_000
"""The adapters' modules, and what attaching leaves behind: 6.8 to 10.0 MB in runs of rank 8, 32 and 128."""
TRAINING_BYTES = 287_000_000
TRAINING_SHARE = 2.05
"""Training: activations, logits, and gradients and optimizer states in proportion to the adapters. Fitted to five steps at rank 8, 32
and 128; less than the three copies that are held, because malloc reuses the memory of activations."""
SLACK = 0.25
"""Half of the band. Over 19 runs the peak was from 19 % below the prediction (one step) to 2 % above (ten); the libraries' mapped files
differ between machines: 0.79 to 0.81 GiB for the default load on two of them."""


def was_measured(config: ModelConfig) -> bool:
    """Whether the model has the shape of the one whose peaks were measured."""
    return (config.num_hidden_layers, config.hidden_size, config.vocab_size) == MEASURED_SHAPE


def cpu_peak(config: ModelConfig, profile: Profile, weights: Term) -> Term | None:
    """The peak in bytes as a tree; None where it was never measured: for other models, and for training in 16-bit."""
    if not was_measured(config) or (profile.training.steps and config.quantization != "nf4"):
        return None
    adapters = 0 if profile.adapters is None else adapter_memory(config, profile.adapters).num_bytes
    training = TRAINING_BYTES + round(TRAINING_SHARE * adapters) if profile.training.steps else 0
    parts = [
        Term("libraries", LIBRARIES_BYTES, "measured"),
        weights,
        Term(
            "output layer in float32",
            4 * config.vocab_size * config.hidden_size,
            "transformers_cpu/engine.py compute_in_float32",
        ),
        Term("adapters", adapters, "fp32"),
        Term("attaching", ATTACHING_BYTES if adapters else 0, "measured"),
        Term("training", training, "fitted"),
    ]
    return total("peak", parts)


def cpu_bands(peak_bytes: int | None) -> dict[str, Band]:
    """The band of the peak by attribute, in bytes; empty where it is not predicted. All other figures are exact."""
    if peak_bytes is None:
        return {}
    why = f"± {SLACK:.0%}: the resident set of the whole process, most of it libraries, which differ between machines"
    return {"peak_device_bytes": Band(peak_bytes * (1 - SLACK), peak_bytes * (1 + SLACK), why)}


def peak_note(peak_bytes: int | None) -> str:
    """How far the predicted peak can be trusted, or why there is none."""
    if peak_bytes is None:
        return f"peak_device_gib is not predicted: {_NO_PEAK}"
    (band,) = cpu_bands(peak_bytes).values()
    return f"peak_device_gib is {band.why}"


_NO_PEAK = "without vLLM there is no budget to predict it from, and on a CPU it was measured only for SmolLM2 135M, its training only in 4-bit"
