"""A model's shape, from its Hugging Face config: the only thing about a model that the memory figures depend on."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from loadcheck.errors import BadInput, Problem, suggestion
from loadcheck.specs.architecture import ARCHITECTURES, Architecture
from loadcheck.specs.files import MAX_FILE_BYTES, Spec, changed, env_dir, load, shown, validate

Quantization = Literal["nf4", "16bit"]
ModelType = Literal["llama", "mistral", "qwen2"]
"""The keys of `specs.architecture.ARCHITECTURES`."""

MAX_SIZE = 10_000_000
"""Far over any size of a model, so that no product of sizes is without end."""
Size = Annotated[int, Meta(ge=1, le=MAX_SIZE)]
MLP_LINEARS = ("gate_proj", "up_proj", "down_proj")
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


class ModelConfig(Spec, frozen=True, kw_only=True):
    """The shape of a model of one of `ARCHITECTURES`. Sizes are element counts; lengths are tokens."""

    model_type: ModelType
    hidden_size: Size
    intermediate_size: Size
    num_hidden_layers: Annotated[int, Meta(ge=1, le=1000)]
    num_attention_heads: Annotated[int, Meta(ge=1, le=1024)]
    num_key_value_heads: Annotated[int, Meta(ge=1, le=1024)]
    head_dim: Size
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
    kept_modules: tuple[str, ...] = ()
    """Modules that a 4-bit checkpoint keeps in 16 bits, such as `layers.1.mlp`: unsloth's dynamic quants."""
    hidden_act: str = "silu"
    derived_max_model_len: Annotated[int, Meta(ge=1)] | None = None
    """The longest max_model_len that vLLM takes, where rope scaling makes it another than max_position_embeddings."""
    rope_refusal: str | None = None
    """What vLLM says where it refuses the rope scaling; None where it takes it."""

    def __post_init__(self) -> None:
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads ({self.num_attention_heads}) is no multiple of num_key_value_heads "
                f"({self.num_key_value_heads}); correct the two"
            )

    @property
    def architecture(self) -> Architecture:
        """What its `model_type` stands for."""
        return ARCHITECTURES[self.model_type]

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

    def is_in_4bit(self, layer: int, linear: str) -> bool:
        """Whether a linear, by its Hugging Face name, is quantized in this layer."""
        block = "mlp" if linear in MLP_LINEARS else "self_attn"
        prefixes = {f"layers.{layer}", f"layers.{layer}.{block}", f"layers.{layer}.{block}.{linear}"}
        return self.quantization == "nf4" and not prefixes.intersection(self.kept_modules)


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
    tie_word_embeddings: bool | None = False
    attention_bias: bool | None = None
    bias: bool | None = None
    qkv_bias: bool | None = None
    mlp_bias: bool | None = None
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
"""Those that vLLM takes beside them (the same file, :1069-1110; vllm/transformers_utils/config.py:142-148)."""


def config_from_hf(hf: Mapping[str, Any], where: str) -> ModelConfig:
    """A Hugging Face config.json as a ModelConfig.

    BadInput names every missing key and every value of a wrong type at once, and by name an architecture, a quantization or a rope
    scaling that is not modelled. Keys that no figure depends on are not looked at.
    """
    problems = [Problem(where, "missing", "add it", key) for key in NEEDED_KEYS if hf.get(key) is None]
    model_type = hf.get("model_type")
    if isinstance(model_type, str) and model_type not in ARCHITECTURES:
        problems.append(
            Problem(
                where,
                f"the architecture {shown(model_type)} is not modelled",
                f"its figures would be a guess; modelled: {', '.join(ARCHITECTURES)}",
                "model_type",
            )
        )
    try:
        config = validate(_HfConfig, _read_keys(hf), where)
    except BadInput as error:
        named = {problem.key for problem in problems}
        raise BadInput([*problems, *(each for each in error.problems if each.key not in named)]) from None
    if config.hidden_size < config.num_attention_heads:
        what = f"{config.hidden_size} is below num_attention_heads ({config.num_attention_heads})"
        problems.append(Problem(where, what, "correct the two", "hidden_size"))
    problems += [*_quantization_problems(config.quantization_config, where), *_rope_problems(config, where)]
    if problems:
        raise BadInput(problems)
    return validate(ModelConfig, _model_data(config), where)


def _read_keys(hf: Mapping[str, Any]) -> dict[str, Any]:
    """The keys that are read, here and in the two tables; {} is no quantization, as for upstream."""
    data = {key: hf[key] for key in _HfConfig.__struct_fields__ if key in hf}
    for key, table in (("rope_scaling", _RopeScaling), ("quantization_config", _QuantizationConfig)):
        if isinstance(inner := data.get(key), dict):
            data[key] = {name: inner[name] for name in table.__struct_fields__ if name in inner}
    if hf.get("quantization_config") == {}:
        data["quantization_config"] = None
    return data


def _model_data(config: _HfConfig) -> dict[str, Any]:
    heads, architecture = config.num_attention_heads, ARCHITECTURES[config.model_type]
    data = {key: getattr(config, key) for key in NEEDED_KEYS}
    data["num_key_value_heads"] = config.num_key_value_heads or architecture.default_kv_heads or heads
    stated_head_dim = config.head_dim if architecture.reads_head_dim else None
    data["head_dim"] = stated_head_dim or config.hidden_size // heads
    data["tie_word_embeddings"] = bool(config.tie_word_embeddings)
    data["hidden_act"] = config.hidden_act or "null"
    data |= _biases(config) | _rope(config) | {"sliding_window": _has_window(config)}
    quantization = config.quantization_config
    data["quantization"] = "nf4" if quantization is not None else "16bit"
    data["kept_modules"] = kept_modules(quantization.llm_int8_skip_modules or ()) if quantization is not None else ()
    return data


def kept_modules(skip_modules: Iterable[str]) -> tuple[str, ...]:
    """Of `llm_int8_skip_modules`, those within the layers, below `model.`, in order; the others are in 16 bits in every checkpoint."""
    return tuple(sorted({name.removeprefix("model.") for name in skip_modules if ".layers." in f".{name}."}))


def _rope(config: _HfConfig) -> dict[str, Any]:
    """What follows from rope scaling: the rows of vLLM's rotary cache, and the longest max_model_len that it takes.

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
    """What vLLM says where it refuses it (vllm/transformers_utils/config.py:125-140, rotary_embedding.py:1023-1113)."""
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
    if ARCHITECTURES[config.model_type].always_qkv_bias:
        return {"qkv_bias": True, "o_bias": False, "mlp_bias": False}
    attention = bool(config.attention_bias or config.bias)
    qkv_bias = attention if config.qkv_bias is None else config.qkv_bias
    return {"qkv_bias": qkv_bias, "o_bias": attention, "mlp_bias": bool(config.mlp_bias)}


def _has_window(config: _HfConfig) -> bool:
    """A mistral config that does not say has a window of 4096; qwen2 has one only where it says that it uses it."""
    window = ARCHITECTURES[config.model_type].window
    if window == "unless null":
        return config.sliding_window is not None
    return window == "if used" and bool(config.use_sliding_window)


_KEPT = re.compile(r"layers\.\d{1,4}(\.mlp(\.down_proj)?|\.self_attn(\.o_proj)?)?")
"""What vLLM can leave unquantized: one of its own linears or a block of them. It merges q, k, v and gate, up, whole or not at all
(unsloth_zoo/vllm_utils.py:58-74, vllm/model_executor/model_loader/loader.py:862-951)."""


def _quantization_problems(quantization: _QuantizationConfig | None, where: str) -> list[Problem]:
    """What is not the plain NF4 with double quantization that the weights formula holds for."""
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
    problems += [
        Problem(
            where,
            f"{shown(name)} is no module whose weights vLLM can keep in 16 bits",
            "modelled: model.layers.N.mlp, .self_attn, .mlp.down_proj and .self_attn.o_proj",
            "quantization_config.llm_int8_skip_modules",
        )
        for name in kept_modules(quantization.llm_int8_skip_modules or ())
        if _KEPT.fullmatch(name) is None
    ]
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
    dynamic: tuple[str, ...] | None = None
    """Modules that its dynamic quant (-unsloth-bnb-4bit) keeps in 16 bits, such as `layers.1.mlp`; none where vLLM cannot load it, so that
    unsloth takes the plain checkpoint; None where they are not known."""
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
        return changed(config, {"quantization": quantization})


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


DYNAMIC_SUFFIX = "-unsloth-bnb-4bit"
UNSLOTH = "unsloth"
"""Its repositories of a model are the checkpoints that unsloth/models/mapper.py sends every other name to."""


def known_owners(model: Model) -> frozenset[str]:
    """Those whose repositories of this model are known, in lower case."""
    owners = (name.partition("/")[0].lower() for name in model.names if "/" in name)
    return frozenset({UNSLOTH, *owners})


def _base_name(name: str) -> str:
    """A hub name or a path without its owner or folder, in lower case, without the mark of a 4-bit checkpoint."""
    return name.lower().rstrip("/").rsplit("/", 1)[-1].removesuffix("-bnb-4bit").removesuffix("-unsloth")


def is_dynamic(name: str) -> bool:
    """Whether a checkpoint's name is that of a dynamic quant, some of whose layers are in 16 bits."""
    return name.lower().rstrip("/").endswith(DYNAMIC_SUFFIX)


def resolve_model(name: str, load_in_4bit: bool) -> tuple[str, ModelConfig]:
    """A name in env/models, a local directory or a JSON file with a config: (the name to show, its shape).

    A local config says itself whether it is quantized; a known name follows `load_in_4bit`.
    """
    path = Path(name)
    if is_local(name):
        file = path / "config.json" if path.is_dir() else path
        title = file.parent.resolve().name if file.name == "config.json" else file.stem
        return title, config_from_hf(_read_json(file), str(file))
    if (model := find_model(name)) is None:
        raise BadInput(unknown_model(name))
    config = model.config_for("nf4" if load_in_4bit else "16bit")
    if not is_dynamic(name):
        return model.name, config
    if model.dynamic is None:
        what = f"which layers {name} keeps in 16 bits is not known"
        raise BadInput(Problem("model", what, f"give its config.json, or take {model.name} without dynamic layers"))
    return f"{model.name}{DYNAMIC_SUFFIX}", changed(config, {"kept_modules": model.dynamic})


def is_local(name: str) -> bool:
    """Whether the name is that of a directory or of a JSON file, and not of a model."""
    return name.endswith(".json") or _is_dir(Path(name))


def unknown_model(name: str) -> Problem:
    """What to say of a name that is no known model, and no directory or config.json either."""
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
        with path.open("rb") as file:
            text = file.read(MAX_FILE_BYTES + 1)
        if len(text) > MAX_FILE_BYTES:
            raise BadInput(
                Problem(str(path), f"is larger than {MAX_FILE_BYTES} bytes", "give a Hugging Face config.json")
            )
        data = json.loads(text.decode("utf-8"))
    except OSError as error:
        raise BadInput(Problem(str(path), f"cannot be read ({error.strerror})", "check the path")) from None
    except (ValueError, RecursionError) as error:
        raise BadInput(Problem(str(path), f"not valid JSON ({error})", "fix the file")) from None
    if not isinstance(data, dict):
        raise BadInput(Problem(str(path), "holds no JSON object", "give a Hugging Face config.json"))
    return data
