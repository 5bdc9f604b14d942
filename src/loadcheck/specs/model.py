"""A model's shape, from its Hugging Face config: the only thing about a model that the memory figures depend on."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from loadcheck.errors import BadInput, Problem, suggestion
from loadcheck.specs.files import Spec, env_dir, load, replaced, validate

Architecture = Literal["llama", "mistral", "qwen2"]
Quantization = Literal["nf4", "16bit"]
ARCHITECTURES: tuple[Architecture, ...] = ("llama", "mistral", "qwen2")

Size = Annotated[int, Meta(ge=1, le=10_000_000)]
NEEDED_KEYS = (
    "model_type",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "vocab_size",
    "max_position_embeddings",
)
# What transformers 4.48.2 assumes where a config does not say: models/{llama,mistral,qwen2}/configuration_*.py
_DEFAULT_KV_HEADS = {"mistral": 8, "qwen2": 32}  # llama: as many as attention heads
_MISTRAL_WINDOW = 4096


class ModelConfig(Spec, frozen=True, kw_only=True):
    """The shape of a llama, mistral or qwen2 model. Sizes are element counts; lengths are tokens."""

    model_type: Architecture
    hidden_size: Size
    intermediate_size: Size
    num_hidden_layers: Annotated[int, Meta(ge=1, le=1000)]
    num_attention_heads: Annotated[int, Meta(ge=1, le=1024)]
    num_key_value_heads: Annotated[int, Meta(ge=1, le=1024)]
    head_dim: Annotated[int, Meta(ge=1, le=1024)]
    vocab_size: Size
    max_position_embeddings: Size
    tie_word_embeddings: bool
    rope_cache_tokens: Size
    """Positions that vLLM keeps rotary factors for; the same as max_position_embeddings unless rope scaling stretches it."""
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    sliding_window: bool = False
    """Whether attention is windowed, which vLLM refuses beside the prefix caching that unsloth always asks for."""
    quantization: Quantization = "16bit"

    def __post_init__(self) -> None:
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads ({self.num_attention_heads}) is no multiple of num_key_value_heads "
                f"({self.num_key_value_heads}); correct the two"
            )

    @property
    def q_size(self) -> int:
        return self.num_attention_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        return self.num_key_value_heads * self.head_dim

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """Each linear of a layer by its Hugging Face name: (in_features, out_features)."""
        hidden, inner = self.hidden_size, self.intermediate_size
        return {
            "q_proj": (hidden, self.q_size),
            "k_proj": (hidden, self.kv_size),
            "v_proj": (hidden, self.kv_size),
            "o_proj": (self.q_size, hidden),
            "gate_proj": (hidden, inner),
            "up_proj": (hidden, inner),
            "down_proj": (inner, hidden),
        }


def config_from_hf(hf: Mapping[str, Any], where: str) -> ModelConfig:
    """A Hugging Face config.json as a ModelConfig.

    BadInput names every missing key at once, and by name an architecture or quantization that is not modelled.
    """
    problems = [Problem(where, "missing", "add it", key) for key in NEEDED_KEYS if hf.get(key) is None]
    model_type = hf.get("model_type")
    if model_type is not None and model_type not in ARCHITECTURES:
        problems.append(
            Problem(
                where,
                f"the architecture {model_type!r} is not modelled",
                f"its figures would be a guess; modelled: {', '.join(ARCHITECTURES)}",
                "model_type",
            )
        )
    problems += _quantization_problems(hf, where)
    if problems:
        raise BadInput(problems)
    heads = hf["num_attention_heads"]
    data = {key: hf[key] for key in NEEDED_KEYS}
    data["num_key_value_heads"] = hf.get("num_key_value_heads") or _DEFAULT_KV_HEADS.get(str(model_type), heads)
    stated_head_dim = None if model_type == "qwen2" else hf.get("head_dim")  # qwen2 does not read it
    data["head_dim"] = stated_head_dim or _whole(hf["hidden_size"], heads)
    data["tie_word_embeddings"] = bool(hf.get("tie_word_embeddings", False))
    data["rope_cache_tokens"] = _rope_cache_tokens(hf)
    data |= _biases(hf) | {"sliding_window": _has_window(hf)}
    data["quantization"] = "nf4" if hf.get("quantization_config") else "16bit"
    return validate(ModelConfig, data, where)


def _rope_cache_tokens(hf: Mapping[str, Any]) -> Any:
    """Rows of vLLM's rotary cache (vllm/model_executor/layers/rotary_embedding.py:988-1100 at 0.7.2)."""
    scaling = hf.get("rope_scaling") or {}
    kind = scaling.get("rope_type") or scaling.get("type")
    positions, factor = hf["max_position_embeddings"], scaling.get("factor")
    if kind in ("linear", "dynamic") and factor:
        return math.ceil(positions * factor)
    if kind == "yarn" and factor:
        return math.ceil(scaling.get("original_max_position_embeddings", positions) * factor)
    return positions


def _biases(hf: Mapping[str, Any]) -> dict[str, bool]:
    """Which linears have a bias (vllm/model_executor/models/llama.py:128-160, qwen2.py:128-160 at 0.7.2)."""
    if hf["model_type"] == "qwen2":
        return {"qkv_bias": True, "o_bias": False, "mlp_bias": False}
    attention = bool(hf.get("attention_bias") or hf.get("bias"))
    return {"qkv_bias": bool(hf.get("qkv_bias", attention)), "o_bias": attention, "mlp_bias": bool(hf.get("mlp_bias"))}


def _has_window(hf: Mapping[str, Any]) -> bool:
    """A mistral config that does not say has a window of 4096; qwen2 has one only where it says that it uses it."""
    if hf["model_type"] == "mistral":
        return hf.get("sliding_window", _MISTRAL_WINDOW) is not None
    return hf["model_type"] == "qwen2" and bool(hf.get("use_sliding_window"))


def _whole(hidden_size: Any, heads: Any) -> Any:
    """hidden_size / heads; left for validation to refuse where the two are no sensible numbers."""
    return hidden_size // heads if isinstance(hidden_size, int) and isinstance(heads, int) and heads > 0 else 0


def _quantization_problems(hf: Mapping[str, Any], where: str) -> list[Problem]:
    """What is not the plain NF4 with double quantization that the weights formula holds for."""
    quantization = hf.get("quantization_config")
    if not quantization:
        return []
    method = quantization.get("quant_method")
    if method != "bitsandbytes" or not quantization.get("load_in_4bit"):
        return [Problem(where, f"quantization {method!r} is not modelled", "modelled: bitsandbytes 4-bit, and 16-bit",
                        "quantization_config.quant_method")]  # fmt: skip
    problems = []
    for key, wanted in (("bnb_4bit_quant_type", "nf4"), ("bnb_4bit_use_double_quant", True)):
        if quantization.get(key) != wanted:
            problems.append(Problem(where, f"{quantization.get(key)!r} is not modelled", f"modelled: {wanted!r}",
                                    f"quantization_config.{key}"))  # fmt: skip
    skipped = [name for name in quantization.get("llm_int8_skip_modules") or () if "layers." in name]
    if skipped:
        problems.append(
            Problem(
                where,
                f"an unsloth dynamic quant, which keeps {len(skipped)} modules in 16 bits ({skipped[0]}, …)",
                "use the checkpoint whose name ends in -bnb-4bit without -unsloth",
                "quantization_config.llm_int8_skip_modules",
            )
        )
    return problems


class Checkpoint(Spec, frozen=True, kw_only=True):
    """Where a model's weights are, pinned: a repository on the Hugging Face hub at one revision."""

    repo: str
    revision: str | None = None
    """A commit; None where it is not known to us, which `loadcheck load` refuses."""


class Model(Spec, frozen=True, kw_only=True):
    """A model that loadcheck knows by name (env/models)."""

    name: str
    names: tuple[str, ...]
    """Every hub name it goes by, compared without case."""
    source: str
    config: dict[str, Any]
    """Its Hugging Face config, without the quantization."""
    checkpoints: dict[Quantization, Checkpoint] = {}
    refused: str | None = None
    """Why its figures are not predicted; None where they are."""

    nulls: tuple[str, ...] = ()
    """The keys that are null in the config.json, which TOML has no word for; `config` has them as None."""

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "config", {**self.config, **dict.fromkeys(self.nulls)})

    @property
    def family(self) -> str:
        """The word in unsloth's banner, "Fast Llama patching" (unsloth/models/llama.py:1661 at 2025.2.5)."""
        return str(self.config["model_type"]).capitalize()

    @property
    def num_layers(self) -> int:
        return int(self.config["num_hidden_layers"])

    @property
    def kv_size(self) -> int:
        """Elements of one token's keys in one layer; known for refused models too, to tell them from others."""
        heads = int(self.config["num_attention_heads"])
        head_dim = self.config.get("head_dim") or self.config["hidden_size"] // heads
        return int(self.config.get("num_key_value_heads") or heads) * int(head_dim)

    def config_for(self, quantization: Quantization) -> ModelConfig:
        """Its shape; BadInput where the model is one that is not predicted."""
        if self.refused is not None:
            raise BadInput(Problem(f"env/models/{self.name}.toml", self.refused, "take another model", "refused"))
        config = config_from_hf(self.config, f"env/models/{self.name}.toml")
        return replaced(config, quantization=quantization)


@cache
def load_models() -> tuple[Model, ...]:
    return tuple(load(Model, path) for path in sorted((env_dir() / "models").glob("*.toml")))


def find_model(name: str) -> Model | None:
    """The known model of this name (its own or a hub name, without case or a path before it); None if there is none."""
    wanted = _base_name(name)
    for model in load_models():
        if wanted in {_base_name(known) for known in (model.name, *model.names)}:
            return model
    return None


UNSLOTH = "unsloth"
"""Its repositories of a model are the checkpoints that unsloth/models/mapper.py sends every other name to."""


def known_owners(model: Model) -> frozenset[str]:
    """Those whose repositories of this model are known, in lower case."""
    owners = (name.partition("/")[0].lower() for name in model.names if "/" in name)
    return frozenset({UNSLOTH, *owners})


def _base_name(name: str) -> str:
    """A hub name or a path without its owner or folder, in lower case, without the mark of a plain 4-bit checkpoint."""
    return name.lower().rstrip("/").rsplit("/", 1)[-1].removesuffix("-bnb-4bit")


def resolve_model(name: str, load_in_4bit: bool) -> tuple[str, ModelConfig]:
    """A name in env/models, a local directory or a JSON file with a config: (the name to show, its shape).

    A local config says itself whether it is quantized; a known name follows `load_in_4bit`.
    """
    path = Path(name)
    if path.suffix == ".json" or _is_dir(path):
        file = path / "config.json" if path.is_dir() else path
        shown = file.parent.resolve().name if file.name == "config.json" else file.stem
        return shown, config_from_hf(_read_json(file), str(file))
    if (model := find_model(name)) is not None:
        return model.name, model.config_for("nf4" if load_in_4bit else "16bit")
    raise BadInput(_unknown_model(name))


def _unknown_model(name: str) -> Problem:
    plain = re.sub(r"-unsloth(?=-bnb-4bit/?$)", "", name, flags=re.IGNORECASE)
    if plain != name:
        return Problem("model", f"{name!r} is a dynamic quant, which is not modelled", f"take {plain}")
    known = [model.name for model in load_models() if model.refused is None]
    what = f"{name!r} is no known model, directory or config.json"
    return Problem("model", what, suggestion(_base_name(name), known))


def _is_dir(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name that is too long for one
        return False


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(Problem(str(path), f"cannot be read ({error.strerror})", "check the path")) from None
    except (ValueError, RecursionError) as error:
        raise BadInput(Problem(str(path), f"not valid JSON ({error})", "mend the file")) from None
    if not isinstance(data, dict):
        raise BadInput(Problem(str(path), "holds no JSON object", "give a Hugging Face config.json"))
    return data
