"""Adapters merged into their base, in 16 bits: W + s·B·A in float32, rounded once.

peft's own merge of a 4-bit model quantizes the sum again (peft 0.14.0, tuners/lora/bnb.py:402-412), which loses some of the training.
Here the base is dequantized, and stays so.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from loadcheck.stacks.reloaded import Source


def write_merged(source: Source, target: Path) -> None:
    """Write the merged model in 16 bits as a Hugging Face directory, with the base's generation config but without a tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

    assert source.base is not None
    dtype = getattr(torch, source.dtype)
    state = dict(_merged(source.model().get_base_model(), dtype))
    config = AutoConfig.from_pretrained(source.base)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.torch_dtype, config._name_or_path = dtype, source.plan.model_name
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, torch_dtype=dtype)
    found = model.load_state_dict(state, strict=False, assign=True)
    missing = set(found.missing_keys) - set(model._tied_weights_keys or ())
    if missing or found.unexpected_keys:
        raise ValueError(f"the merged model is not the base's: {sorted(missing)[:3]} {found.unexpected_keys[:3]}")
    model.tie_weights()
    if (source.base / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(source.base)
    model.save_pretrained(target, safe_serialization=True)


def _merged(model: Any, dtype: Any) -> Iterator[tuple[str, Any]]:
    """Every parameter under the base's own name, in 16 bits on the host."""
    adapted = {name: module for name, module in model.named_modules() if hasattr(module, "lora_A")}
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            continue
        weight = _dequantized(parameter)
        module = adapted.get(name.removesuffix(".base_layer.weight"))
        if module is not None and name.endswith(".base_layer.weight"):
            weight = weight.float() + module.get_delta_weight(module.active_adapters[0]).float()
        yield name.replace(".base_layer.", "."), weight.to(dtype).cpu()


def _dequantized(parameter: Any) -> Any:
    state = getattr(parameter, "quant_state", None)
    if state is None:
        return parameter.detach()
    from bitsandbytes.functional import dequantize_4bit

    return dequantize_4bit(parameter.data, state).float()
