"""Attaches the adapters with peft, and counts what unsloth would report as patched."""

from __future__ import annotations

import time
from typing import Any, TypedDict

from loadcheck.specs.profile import Adapters
from loadcheck.stacks.engine_common import digest, seconds_since, trainable
from loadcheck.stacks.recorder import Recorder
from loadcheck.stacks.transformers_cpu.events import Attached


def attach(model: Any, adapters: Adapters, recorder: Recorder) -> Any:
    import torch
    from peft import LoraConfig, get_peft_model

    start_s = time.monotonic()
    torch.manual_seed(adapters.random_state)
    config = LoraConfig(
        r=adapters.r,
        lora_alpha=adapters.lora_alpha,
        lora_dropout=adapters.lora_dropout,
        bias=adapters.bias,
        target_modules=list(adapters.target_modules),
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(model, config)
    attach_s = seconds_since(start_s)
    trainable_params, total_params = model.get_nb_trainable_parameters()
    weights = trainable(model)
    recorder.record(
        Attached(
            trainable_params=trainable_params,
            total_params=total_params,
            adapter_bytes=sum(weight.nbytes for weight in weights),
            **patched_counts(model.base_model.model.model.layers, model.config.model_type, adapters.lora_dropout),
            adapter_sha256=digest(weights),
            attach_s=attach_s,
        )
    )
    return model


class Patched(TypedDict):
    """See logs/events.py: Attached."""

    patched_layers: int
    patched_qkv: int
    patched_o: int
    patched_mlp: int


def patched_counts(layers: Any, model_type: str, lora_dropout: float) -> Patched:
    """The layers that unsloth would report as patched: its condition at 2025.2.5 (unsloth/models/llama.py:2530-2603)."""
    counted = layers if lora_dropout == 0 else ()
    is_qwen2 = model_type == "qwen2"  # its QKV always count as patched
    return {
        "patched_layers": len(layers),
        "patched_qkv": sum(is_qwen2 or _is_patched(x.self_attn, "q_proj", "k_proj", "v_proj") for x in counted),
        "patched_o": sum(_is_patched(x.self_attn, "o_proj") for x in counted),
        "patched_mlp": sum(_is_patched(x.mlp, "gate_proj", "up_proj", "down_proj") for x in counted),
    }


def _is_patched(block: Any, *names: str) -> bool:
    """Whether all these linears have an adapter, and no bias."""
    linears = [getattr(block, name) for name in names]
    return all(hasattr(linear, "lora_A") and linear.base_layer.bias is None for linear in linears)
