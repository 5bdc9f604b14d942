"""How architectures differ, as far as a figure depends on it. To add one, add its record here, and trace its real classes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Architecture:
    """One `model_type` of a config.json.

    Attributes:
        classes: the names in a config's `architectures` that vLLM loads by this source (vllm/model_executor/models/registry.py:24-96).
        source: the file of vllm 0.7.2 that everything but the defaults comes from.
        default_kv_heads: the default if a config has none; None means as many as attention heads
            (transformers 4.48.2 models/*/configuration_*.py, as for the next three).
        default_head_dim: likewise; None means hidden_size / heads.
        default_tied: likewise, whether embedding and head are tied.
        always_tied: whether vLLM supports only tied ones.
        reads_head_dim: whether a config's `head_dim` is used, rather than always hidden_size / heads.
        always_qkv_bias, never_bias: whether q, k and v always have a bias, or no linear ever has one, whatever the config says.
        window: when attention is windowed.
        activations: the activation functions that vLLM supports.
        lora_vocabulary: whether embedding and head take adapters, with rows and slots for them.
        keeps_gate_up: whether the output of gate and up stays allocated through the down projection.
        hidden_copies: tensors of the residual stream that are alive during a layer's attention, and during its MLP.
        normalizer: whether the embedding is scaled by a factor that is a tensor.
        more_kernels: kernels of a layer in a decode step, in addition to those of every architecture.
        rope_table_bytes: bytes per number in unsloth's own rotary tables (unsloth/models/*.py at 2025.2.5).
        trained: whether the tensors of its training were traced (scripts/trace_training.py).
    """

    name: str
    classes: tuple[str, ...]
    source: str
    default_kv_heads: int | None = None
    default_head_dim: int | None = None
    default_tied: bool = False
    always_tied: bool = False
    reads_head_dim: bool = True
    always_qkv_bias: bool = False
    never_bias: bool = False
    window: Literal["never", "unless null", "if used"] = "never"
    activations: tuple[str, ...] = ("silu",)
    lora_vocabulary: bool = True
    keeps_gate_up: bool = False
    hidden_copies: tuple[int, int] = (2, 3)
    normalizer: bool = False
    more_kernels: int = 0
    rope_table_bytes: int = 2
    trained: bool = True


_LLAMA = "vllm/model_executor/models/llama.py"
_LLAMA_CLASSES = ("LlamaForCausalLM", "LLaMAForCausalLM", "MistralForCausalLM")
ARCHITECTURES = {
    architecture.name: architecture
    for architecture in (
        Architecture("llama", _LLAMA_CLASSES, _LLAMA),
        Architecture(
            "mistral", ("MistralForCausalLM", *_LLAMA_CLASSES), _LLAMA, default_kv_heads=8, window="unless null"
        ),
        Architecture(
            "qwen2",
            ("Qwen2ForCausalLM",),
            "vllm/model_executor/models/qwen2.py",  # :94-98 and :434-442
            default_kv_heads=32,
            reads_head_dim=False,
            always_qkv_bias=True,
            window="if used",
            lora_vocabulary=False,
            keeps_gate_up=True,
        ),
        Architecture(
            "granite",
            ("GraniteForCausalLM",),
            "vllm/model_executor/models/granite.py",  # two multiplications and two additions per layer: :237-254
            keeps_gate_up=True,
            more_kernels=4,
            trained=False,
        ),
        Architecture(
            "gemma",
            ("GemmaForCausalLM",),
            "vllm/model_executor/models/gemma.py",  # :85-89, :288-289, :344-356, :367
            default_kv_heads=16,
            default_head_dim=256,
            default_tied=True,
            always_tied=True,
            never_bias=True,
            activations=("gelu_pytorch_tanh", "gelu"),
            lora_vocabulary=False,
            keeps_gate_up=True,
            hidden_copies=(4, 4),  # its norms do not work in place: layers/layernorm.py:150-200
            normalizer=True,
            rope_table_bytes=4,  # unsloth/models/gemma.py:240-254
            trained=False,
        ),
    )
}
"""By `model_type`."""

NOT_PREDICTED = {
    "gemma2": "vLLM loads it, but unsloth's own copy has no weights in pre_ and post_feedforward_layernorm, so no adapter can be trained",
    "cohere": "vLLM loads it, and then unsloth ends with AttributeError: 'CohereDecoderLayer' object has no attribute "
    "'post_attention_layernorm'",
}
"""Architectures that unsloth 2025.2.5 passes to vLLM, but that fail later: what happens, by `model_type` (unsloth_zoo/vllm_utils.py:
454-467, 563-577; the part that needs no GPU was run on 2026-11-29)."""
NOT_LOADED = "unsloth ends with NotImplementedError: Unsloth: … not supported yet!"
"""What happens to every other architecture that the pinned transformers knows (unsloth/models/loader.py:194-262)."""
UNKNOWN_TO_STACK = "it is newer than transformers 4.48.2, which does not know its architecture"

_FAMILIES = (
    ("gemma-?2-", "gemma2"), ("gemma-?3", "gemma3"), ("c4ai-command-r|aya-", "cohere"), ("phi-?3", "phi3"), ("phi-?4-(?:mini|multi)", "phi3"),
    ("llama-?3.2-(?:11|90)b", "mllama"), ("qwen-?2(?:.5)?-vl", "qwen2_vl"), ("mixtral", "mixtral"), (r"qwen-?3(?!\d)", "qwen3"),
    ("llama-?4", "llama4"), ("gpt-oss", "gpt_oss"), ("deepseek-(?:v3|r1(?!-distill))", "deepseek_v3"), ("glm-?4-.*0414", "glm4"),
    ("smollm-?3", "smollm3"), ("granite-?4", "granitemoehybrid"), ("command-?(?:r7b|a)", "cohere2"),
)  # fmt: skip
"""(pattern in a model's name, model_type): families that users ask for, and that this stack does not load."""
# Those of _FAMILIES that are missing in CONFIG_MAPPING_NAMES of transformers 4.48.2 (models/auto/configuration_auto.py).
_NEWER = frozenset({"gemma3", "qwen3", "llama4", "gpt_oss", "glm4", "smollm3", "granitemoehybrid", "deepseek_v3"})


def family_not_loaded(name: str) -> tuple[str, str] | None:
    """By a model's name, the `model_type` of a family that the stack does not load, and what happens to it; None for other names."""
    family = next((kind for pattern, kind in _FAMILIES if re.search(pattern, name.lower())), None)
    if family is None:
        return None
    return family, UNKNOWN_TO_STACK if family in _NEWER else NOT_PREDICTED.get(family, NOT_LOADED)
