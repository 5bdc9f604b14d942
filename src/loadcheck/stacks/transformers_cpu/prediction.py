"""The prediction of a load on a CPU with transformers, bitsandbytes and peft: exact to the byte, except for the peak (peak.py).

The weights are the tensors that the model holds, as counted by `transformers_cpu.memory.held_bytes`; no allocator rounds them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from loadcheck.figures import Figures
from loadcheck.predict.account import Prediction
from loadcheck.predict.case import Case
from loadcheck.predict.terms import Term, total
from loadcheck.specs.profile import Profile
from loadcheck.specs.shape import ModelConfig
from loadcheck.stacks.transformers_cpu.peak import cpu_peak, peak_note
from loadcheck.stacks.unsloth_vllm.adapters import adapter_figures
from loadcheck.stacks.unsloth_vllm.weights import DTYPE_BYTES, NF4_BLOCK, NF4_NESTED_BLOCK

CODE_BYTES = 4 * (16 + 256)
"""NF4's code and the nested 8-bit code: each linear has its own, though all are equal (bitsandbytes 0.46.1 functional.py)."""


def cpu_weights(config: ModelConfig) -> Term:
    """Every tensor of the loaded model, by kind."""
    layers, hidden = config.num_hidden_layers, config.hidden_size
    elements = [num_in * num_out for num_in, num_out in config.linears.values()]
    tables = 1 if config.tie_word_embeddings else 2
    parts = [
        *(_quantized(layers, elements) if config.quantization == "nf4" else [_plain(layers, elements)]),
        Term("biases", DTYPE_BYTES * layers * _bias_elements(config), "transformers 4.48.2 models/qwen2"),
        Term("embeddings", DTYPE_BYTES * tables * config.vocab_size * hidden, "tied ones are one tensor"),
        Term("norms", DTYPE_BYTES * (2 * layers + 1) * hidden, "transformers 4.48.2 models/llama"),
        Term("rotary frequencies", 4 * config.head_dim // 2, "fp32, once for all layers"),
    ]
    return total("weights", parts)


def _quantized(layers: int, elements: list[int]) -> list[Term]:
    blocks = [-(-n // NF4_BLOCK) for n in elements]
    nested = [4 * -(-n // NF4_NESTED_BLOCK) + 4 for n in blocks]  # and the offset
    source = "bitsandbytes 0.46.1 functional.py quantize_4bit"
    return [
        Term("packed", layers * sum(n // 2 for n in elements), source),
        Term("absmax", layers * sum(blocks), source),
        Term("nested absmax", layers * sum(nested), source),
        Term("codes", layers * len(elements) * CODE_BYTES, source),
    ]


def _plain(layers: int, elements: list[int]) -> Term:
    return Term("linears", DTYPE_BYTES * layers * sum(elements), "16-bit")


def _bias_elements(config: ModelConfig) -> int:
    qkv = config.qkv_bias * (config.q_size + 2 * config.kv_size)
    return (
        qkv + config.o_bias * config.hidden_size + config.mlp_bias * (2 * config.intermediate_size + config.hidden_size)
    )


def predict(case: Case) -> Prediction:
    """The figures of a load without vLLM that follow from the model and the profile; the peak has a band, which a note states.

    On a GPU the weights, which no line prints, and the peak, which was never measured there, are left out.
    """
    figures = _figures(case.config, case.profile)
    if not case.profile.on_cpu:
        figures = replace(figures, weights_bytes=None, peak_device_bytes=None)
    return Prediction(figures, notes=(peak_note(figures.peak_device_bytes),))


def _figures(config: ModelConfig, profile: Profile) -> Figures:
    weights = cpu_weights(config)
    peak = cpu_peak(config, profile, weights)
    adapters: dict[str, Any] = {} if profile.adapters is None else adapter_figures(config, profile.adapters)
    return Figures(
        quantization=config.quantization,
        max_model_len=profile.max_seq_length,
        weights_bytes=weights.num_bytes,
        peak_device_bytes=None if peak is None else peak.num_bytes,
        **adapters,
    )
