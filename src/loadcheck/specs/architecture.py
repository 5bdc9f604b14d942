"""What sets one architecture apart from the others, as far as a figure depends on it. To add one, add its record here, and trace it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Architecture:
    """One `model_type` of a config.json.

    Attributes:
        default_kv_heads: where a config does not say; None for as many as attention heads
            (transformers 4.48.2 models/*/configuration_*.py).
        reads_head_dim: whether `head_dim` of a config counts, and not hidden_size / heads alone.
        always_qkv_bias: whether q, k and v have a bias whatever the config says.
        window: when attention is windowed.
        lora_vocabulary: whether embedding and head take adapters, with rows and slots for them.
        keeps_gate_up: whether the output of gate and up lives on through the down projection.
        source: the file of vllm 0.7.2 that the last two are read from.
    """

    name: str
    source: str
    default_kv_heads: int | None = None
    reads_head_dim: bool = True
    always_qkv_bias: bool = False
    window: Literal["never", "unless null", "if used"] = "never"
    lora_vocabulary: bool = True
    keeps_gate_up: bool = False


_LLAMA = "vllm/model_executor/models/llama.py"
ARCHITECTURES = {
    each.name: each
    for each in (
        Architecture("llama", _LLAMA),
        Architecture("mistral", _LLAMA, default_kv_heads=8, window="unless null"),
        Architecture(
            "qwen2",
            "vllm/model_executor/models/qwen2.py",  # :94-98 and :434-442
            default_kv_heads=32,
            reads_head_dim=False,
            always_qkv_bias=True,
            window="if used",
            lora_vocabulary=False,
            keeps_gate_up=True,
        ),
    )
}
"""By `model_type`."""
