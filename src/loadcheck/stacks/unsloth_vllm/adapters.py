"""The LoRA adapters that `get_peft_model` attaches: their parameters and bytes, and what unsloth patches."""

from __future__ import annotations

from collections.abc import Collection

from loadcheck.predict.terms import Term, total
from loadcheck.specs.lora import adapter_params, base_params
from loadcheck.specs.profile import Adapters
from loadcheck.specs.shape import ModelConfig
from loadcheck.stacks.unsloth_vllm.allocator import cached

ADAPTER_DTYPE_BYTES = 4
"""fp32 for any base: peft/mapping.py:151 (autocast_adapter_dtype); unsloth enforces it, too (_utils.py:500-536)."""


@cached(maxsize=1024)
def adapter_memory(config: ModelConfig, adapters: Adapters) -> Term:
    parts = [
        Term(
            name, ADAPTER_DTYPE_BYTES * adapter_params(config, adapters.r, [name]), "peft/tuners/lora/layer.py:116-118"
        )
        for name in config.linears
        if name in adapters.target_modules
    ]
    return total("adapter", parts, "peft 0.14.0; fp32")


def adapter_figures(config: ModelConfig, adapters: Adapters) -> dict[str, int]:
    """Every figure of attached adapters."""
    params = adapter_params(config, adapters.r, adapters.target_modules)
    return {
        **patched(config, adapters.target_modules, adapters.lora_dropout),
        "trainable_params": params,
        "total_params": base_params(config) + params,
        "adapter_bytes": adapter_memory(config, adapters).num_bytes,
    }


def patched(config: ModelConfig, targets: Collection[str], lora_dropout: float) -> dict[str, int]:
    """The counts in unsloth's "patched 32 layers with …" (unsloth/models/llama.py:2529-2603); 0 for a group that lacks a target module.

    Any dropout other than 0 skips the whole block.
    """
    layers = config.num_hidden_layers
    groups = {
        "patched_qkv": {"q_proj", "k_proj", "v_proj"},
        "patched_o": {"o_proj"},
        "patched_mlp": {"gate_proj", "up_proj", "down_proj"},
    }
    counts = {name: layers if group <= set(targets) and lora_dropout == 0 else 0 for name, group in groups.items()}
    return {"patched_layers": layers, **counts}
