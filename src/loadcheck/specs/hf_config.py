"""Reads a Hugging Face config.json as a model's shape, and checks every key that a figure depends on."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from loadcheck.errors import BadInput, Problem, remedy_of
from loadcheck.specs.architecture import ARCHITECTURES, NOT_LOADED, NOT_PREDICTED
from loadcheck.specs.files import MAX_FILE_BYTES, Spec, shown, validate
from loadcheck.specs.shape import MAX_SIZE, ModelConfig, Size

NEEDED_KEYS = (
    "model_type",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "vocab_size",
    "max_position_embeddings",
)
_MISTRAL_WINDOW = 4096


class _RopeScaling(Spec, frozen=True, kw_only=True):
    """`rope_scaling` of a config.json, as far as it is read."""

    rope_type: str | None = None
    type: str | None = None
    factor: Annotated[float, Meta(gt=0, le=1_000_000)] | None = None
    low_freq_factor: Annotated[float, Meta(gt=0, le=1_000_000)] | None = None
    high_freq_factor: Annotated[float, Meta(gt=0, le=1_000_000)] | None = None
    original_max_position_embeddings: Size | None = None


class _QuantizationConfig(Spec, frozen=True, kw_only=True):
    """`quantization_config` of a config.json, as far as it is read."""

    quant_method: str | None = None
    load_in_4bit: bool | None = None
    bnb_4bit_quant_type: str | None = None
    bnb_4bit_use_double_quant: bool | None = None
    bnb_4bit_quant_storage: str | None = None
    llm_int8_skip_modules: tuple[str, ...] | None = None


class _HfConfig(Spec, frozen=True, kw_only=True):
    """A config.json, as far as it is read. The defaults are those of transformers 4.48.2 models/*/configuration_*.py."""

    model_type: str
    hidden_size: Size
    intermediate_size: Size
    num_hidden_layers: Annotated[int, Meta(ge=1, le=1000)]
    num_attention_heads: Annotated[int, Meta(ge=1, le=1024)]
    vocab_size: Size
    max_position_embeddings: Size
    num_key_value_heads: Annotated[int, Meta(ge=1, le=1024)] | None = None
    head_dim: Size | None = None
    hidden_act: str | None = "silu"
    hidden_activation: str | None = None
    tie_word_embeddings: bool | None = None
    attention_bias: bool | None = None
    bias: bool | None = None
    qkv_bias: bool | None = None
    mlp_bias: bool | None = None
    architectures: tuple[str, ...] | None = None
    sliding_window: Size | None = _MISTRAL_WINDOW
    use_sliding_window: bool | None = None
    rope_scaling: _RopeScaling | None = None
    quantization_config: _QuantizationConfig | None = None


_ROPE_KEYS = {
    "default": (),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "yarn": ("factor", "original_max_position_embeddings"),
}
"""The rope types that are modelled, with the keys that vLLM needs (vllm/model_executor/layers/rotary_embedding.py:1023-1068)."""
_ROPE_NOT_MODELLED = ("longrope", "su", "deepseek_yarn", "mrope")
"""The other types that vLLM supports (the same file, :1069-1110; vllm/transformers_utils/config.py:142-148)."""


def config_from_hf(hf: Mapping[str, Any], where: str) -> ModelConfig:
    """A Hugging Face config.json as a ModelConfig.

    BadInput lists every missing key and every value of a wrong type at once, and names an architecture, a quantization or a rope
    scaling that is not modelled. Keys that no figure depends on are ignored.
    """
    model_type = hf.get("model_type")
    if isinstance(model_type, str) and model_type not in ARCHITECTURES:  # other architectures have other keys
        what = f"the architecture {shown(model_type)} is not modelled"
        remedy = f"{NOT_PREDICTED.get(model_type, NOT_LOADED)}; modelled: {', '.join(ARCHITECTURES)}"
        raise BadInput(Problem(where, what, remedy, "model_type"))
    problems = [Problem(where, "missing", "add it", key) for key in NEEDED_KEYS if hf.get(key) is None]
    try:
        config = validate(_HfConfig, _read_keys(hf), where)
    except BadInput as error:
        named = {problem.key for problem in problems}
        raise BadInput([*problems, *(problem for problem in error.problems if problem.key not in named)]) from None
    if config.hidden_size < config.num_attention_heads:
        what = f"{config.hidden_size} is below num_attention_heads ({config.num_attention_heads})"
        problems.append(Problem(where, what, "correct the two", "hidden_size"))
    problems += [
        *_class_problems(config, where),
        *_quantization_problems(config.quantization_config, where),
        *_rope_problems(config, where),
    ]
    if problems:
        raise BadInput(problems)
    return validate(ModelConfig, _model_data(config), where)


def _read_keys(hf: Mapping[str, Any]) -> dict[str, Any]:
    """Only the keys that are read, also within the two tables. {} means no quantization, as it does upstream."""
    data = {key: hf[key] for key in _HfConfig.__struct_fields__ if key in hf}
    for key, table in (("rope_scaling", _RopeScaling), ("quantization_config", _QuantizationConfig)):
        if isinstance(inner := data.get(key), dict):
            data[key] = {name: inner[name] for name in table.__struct_fields__ if name in inner}
    if hf.get("quantization_config") == {}:
        data["quantization_config"] = None
    if data.get("quantization_config") is None and isinstance(hf.get("compression_config"), dict):
        data["quantization_config"] = {"quant_method": "compressed-tensors"}  # vllm/config.py, _parse_quant_hf_config
    return data


def _model_data(config: _HfConfig) -> dict[str, Any]:
    heads, architecture = config.num_attention_heads, ARCHITECTURES[config.model_type]
    data = {key: getattr(config, key) for key in NEEDED_KEYS}
    data["num_key_value_heads"] = config.num_key_value_heads or architecture.default_kv_heads or heads
    stated_head_dim = config.head_dim if architecture.reads_head_dim else None
    data["head_dim"] = stated_head_dim or architecture.default_head_dim or config.hidden_size // heads
    tied = config.tie_word_embeddings
    data["tie_word_embeddings"] = architecture.default_tied if tied is None else tied
    data["hidden_act"] = _activation(config)
    data |= _biases(config) | _rope(config) | {"sliding_window": _has_window(config)}
    quantization = config.quantization_config
    data["quantization"] = "nf4" if quantization is not None else "16bit"
    data["kept_modules"] = kept_modules(quantization.llm_int8_skip_modules or ()) if quantization is not None else ()
    return data


def _activation(config: _HfConfig) -> str:
    """gemma has its own key, whose default is the tanh approximation (vllm/model_executor/models/gemma.py:51-73)."""
    if config.model_type == "gemma":
        return config.hidden_activation or "gelu_pytorch_tanh"
    return config.hidden_act or "null"


def kept_modules(skip_modules: Iterable[str]) -> tuple[str, ...]:
    """The modules of `llm_int8_skip_modules` within the layers, without `model.`, sorted; others are in 16 bits in every checkpoint."""
    return tuple(sorted({name.removeprefix("model.") for name in skip_modules if ".layers." in f".{name}."}))


def _rope(config: _HfConfig) -> dict[str, Any]:
    """What rope scaling changes: the rows of vLLM's rotary cache, and the longest max_model_len that it accepts.

    vllm/model_executor/layers/rotary_embedding.py:988-1110 and vllm/config.py:2456-2486 at 0.7.2.
    """
    scaling, positions = config.rope_scaling, config.max_position_embeddings
    if scaling is None:
        return {"rope_cache_tokens": positions}
    rope = {"rope_cache_tokens": positions, "rope_refusal": _rope_refusal(scaling)}
    kind, factor = scaling.rope_type or scaling.type, scaling.factor
    if kind in ("linear", "dynamic", "yarn") and factor:
        base = (scaling.original_max_position_embeddings if kind == "yarn" else None) or positions
        rope |= {"rope_cache_tokens": math.ceil(base * factor), "derived_max_model_len": max(int(base * factor), 1)}
    return rope


def _rope_refusal(scaling: _RopeScaling) -> str | None:
    """vLLM's message if it refuses the rope scaling (vllm/transformers_utils/config.py:125-140, rotary_embedding.py:1023-1113)."""
    kind = scaling.rope_type or scaling.type
    if kind is None:
        return "rope_scaling should have a 'rope_type' key"
    if scaling.rope_type and scaling.type and scaling.rope_type != scaling.type:
        return f"Found conflicts between 'rope_type={shown(scaling.rope_type, '')}' (modern field) and 'type={shown(scaling.type, '')}'"
    if kind not in _ROPE_KEYS:
        return f"Unknown RoPE scaling type {shown(kind, '')}"
    missing = [key for key in _ROPE_KEYS[kind] if getattr(scaling, key) is None]
    return f"KeyError: '{missing[0]}'" if missing else None


def _rope_problems(config: _HfConfig, where: str) -> list[Problem]:
    scaling = config.rope_scaling
    kind = None if scaling is None else scaling.rope_type or scaling.type
    if kind in _ROPE_NOT_MODELLED:
        modelled = f"its figures would be a guess; modelled: {', '.join(_ROPE_KEYS)}"
        return [Problem(where, f"the rope type {kind!r} is not modelled", modelled, "rope_scaling.rope_type")]
    if (rows := _rope(config)["rope_cache_tokens"]) > MAX_SIZE:
        what = f"stretches max_position_embeddings to {rows} tokens, above {MAX_SIZE}"
        return [Problem(where, what, "correct the value", "rope_scaling.factor")]
    return []


def _biases(config: _HfConfig) -> dict[str, bool]:
    """Which linears have a bias (vllm/model_executor/models/llama.py:128-160, qwen2.py:128-160 at 0.7.2)."""
    architecture = ARCHITECTURES[config.model_type]
    if architecture.always_qkv_bias or architecture.never_bias:
        return {"qkv_bias": architecture.always_qkv_bias, "o_bias": False, "mlp_bias": False}
    attention = bool(config.attention_bias or config.bias)
    qkv_bias = attention if config.qkv_bias is None else config.qkv_bias
    return {"qkv_bias": qkv_bias, "o_bias": attention, "mlp_bias": bool(config.mlp_bias)}


def _has_window(config: _HfConfig) -> bool:
    """A mistral config has a window of 4096 by default; qwen2 has one only if it enables it."""
    window = ARCHITECTURES[config.model_type].window
    if window == "unless null":
        return config.sliding_window is not None
    return window == "if used" and bool(config.use_sliding_window)


_KEPT = re.compile(r"layers\.\d{1,4}(\.mlp(\.down_proj)?|\.self_attn(\.o_proj)?)?")
"""What vLLM can leave unquantized: one of its own linears, or a block of them. It merges q, k and v, and gate and up, so they are quantized
together or not at all (unsloth_zoo/vllm_utils.py:58-74, vllm/model_executor/model_loader/loader.py:862-951)."""


def _class_problems(config: _HfConfig, where: str) -> list[Problem]:
    """Problems of a model with another head than a language model's, which vLLM chooses by its class (models/registry.py:24-96 at 0.7.2)."""
    architecture = ARCHITECTURES.get(config.model_type)
    if architecture is None or config.architectures is None or set(config.architectures) & set(architecture.classes):
        return []
    return [Problem(where, f"{shown(', '.join(config.architectures)) or 'an empty list'} is not modelled",
                    f"modelled for {config.model_type}: {architecture.classes[0]}", "architectures")]  # fmt: skip


def _quantization_problems(quantization: _QuantizationConfig | None, where: str) -> list[Problem]:
    """Problems of a quantization other than NF4 with double quantization, for which the weights formula holds."""
    if quantization is None:
        return []
    method = quantization.quant_method
    if method != "bitsandbytes" or not quantization.load_in_4bit:
        return [Problem(where, f"quantization {shown(method)} is not modelled", "modelled: bitsandbytes 4-bit, and 16-bit",
                        "quantization_config.quant_method")]  # fmt: skip
    problems = []
    for key, wanted in (("bnb_4bit_quant_type", "nf4"), ("bnb_4bit_use_double_quant", True)):
        if (value := getattr(quantization, key)) != wanted:
            problems.append(Problem(where, f"{shown(value)} is not modelled", f"modelled: {wanted!r}",
                                    f"quantization_config.{key}"))  # fmt: skip
    if (storage := quantization.bnb_4bit_quant_storage) not in (None, "uint8"):
        problems.append(Problem(where, f"vLLM 0.7.2 does not support {shown(storage)}", "take a checkpoint that is stored as 'uint8'",
                                "quantization_config.bnb_4bit_quant_storage"))  # fmt: skip
    problems += [
        Problem(
            where,
            f"{shown(name)} is not a module that vLLM can keep in 16 bits",
            "modelled: model.layers.N.mlp, .self_attn, .mlp.down_proj and .self_attn.o_proj",
            "quantization_config.llm_int8_skip_modules",
        )
        for name in kept_modules(quantization.llm_int8_skip_modules or ())
        if _KEPT.fullmatch(name) is None
    ]
    return problems


def read_config(path: Path) -> dict[str, Any]:
    """The JSON object of a config.json; BadInput if it is not one."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_FILE_BYTES + 1)
        if len(text) > MAX_FILE_BYTES:
            raise BadInput(
                Problem(str(path), f"is larger than {MAX_FILE_BYTES} bytes", "give a Hugging Face config.json")
            )
        data = json.loads(text.decode("utf-8"))
    except OSError as error:
        raise BadInput(Problem(str(path), f"cannot be read ({error.strerror})", remedy_of(error))) from None
    except (ValueError, RecursionError) as error:
        raise BadInput(Problem(str(path), f"not valid JSON ({error})", "fix the file")) from None
    if not isinstance(data, dict):
        raise BadInput(Problem(str(path), "not a JSON object", "give a Hugging Face config.json"))
    return data
