"""The models that are known by name (env/models), and the resolution of a name, a directory or a config.json."""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from loadcheck.errors import BadInput, Problem, suggestion
from loadcheck.specs.architecture import ARCHITECTURES, family_not_loaded
from loadcheck.specs.files import Spec, changed, env_dir, load, shown
from loadcheck.specs.hf_config import config_from_hf, read_config
from loadcheck.specs.shape import ModelConfig, Quantization


class Checkpoint(Spec, frozen=True, kw_only=True):
    """Where a model's weights are, pinned: a repository on the Hugging Face hub at one revision."""

    repo: str
    revision: str | None = None
    """A commit; None if it is unknown, which `loadcheck load` refuses."""


class Model(Spec, frozen=True, kw_only=True):
    """A model that loadcheck knows by name (env/models)."""

    name: str
    names: tuple[str, ...]
    """Every hub name it goes by, compared case-insensitively."""
    source: str
    config: dict[str, Any]
    """Its Hugging Face config, without the quantization."""
    checkpoints: dict[Quantization, Checkpoint] = {}
    dynamic: tuple[str, ...] | None = None
    """Modules that its dynamic quant (-unsloth-bnb-4bit) keeps in 16 bits, such as `layers.1.mlp`; empty if vLLM cannot load it, so that
    unsloth loads the plain checkpoint; None if they are unknown."""
    refused: str | None = None
    """Why its figures are not predicted; None if they are."""

    nulls: tuple[str, ...] = ()
    """The keys that are null in the config.json, as TOML has no null; `config` has them as None."""

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "config", {**self.config, **dict.fromkeys(self.nulls)})

    @property
    def family(self) -> str:
        """The family in unsloth's banner, such as Llama in "Fast Llama patching" (unsloth/models/llama.py:1661 at 2025.2.5)."""
        return str(self.config["model_type"]).capitalize()

    @property
    def num_layers(self) -> int:
        return int(self.config["num_hidden_layers"])

    @property
    def kv_size(self) -> int:
        """Elements of one token's keys in one layer; also for refused models, to tell them from others."""
        heads = int(self.config["num_attention_heads"])
        head_dim = self.config.get("head_dim") or self.config["hidden_size"] // heads
        return int(self.config.get("num_key_value_heads") or heads) * int(head_dim)

    def config_for(self, quantization: Quantization) -> ModelConfig:
        """Its shape; BadInput if its figures are not predicted."""
        if self.refused is not None:
            raise BadInput(Problem(f"env/models/{self.name}.toml", self.refused, "use another model", "refused"))
        config = config_from_hf(self.config, f"env/models/{self.name}.toml")
        return changed(config, {"quantization": quantization})


@cache
def load_models() -> tuple[Model, ...]:
    return tuple(load(Model, path) for path in sorted((env_dir() / "models").glob("*.toml")))


def find_model(name: str) -> Model | None:
    """The known model of this name (its own or a hub name; case and a leading path are ignored); None if there is none."""
    wanted = _base_name(name)
    for model in load_models():
        if wanted in {_base_name(known) for known in (model.name, *model.names)}:
            return model
    return None


ADAPTER_CONFIG = "adapter_config.json"
DEFAULT_ROPE_THETA = 10_000
"""Of every model type here (transformers 4.48.2 models/*/configuration_*.py)."""
DYNAMIC_SUFFIX = "-unsloth-bnb-4bit"
UNSLOTH = "unsloth"
"""The owner of the checkpoints to which unsloth/models/mapper.py maps every other name."""


def known_owners(model: Model) -> frozenset[str]:
    """The owners of known repositories of this model, in lower case."""
    owners = (name.partition("/")[0].lower() for name in model.names if "/" in name)
    return frozenset({UNSLOTH, *owners})


def _base_name(name: str) -> str:
    """A hub name or a path without its owner or folder, in lower case, without the suffix of a 4-bit checkpoint."""
    return name.lower().rstrip("/").rsplit("/", 1)[-1].removesuffix("-bnb-4bit").removesuffix("-unsloth")


def is_dynamic(name: str) -> bool:
    """Whether a checkpoint's name is that of a dynamic quant, which keeps some layers in 16 bits."""
    return name.lower().rstrip("/").endswith(DYNAMIC_SUFFIX)


def resolve_model(name: str, load_in_4bit: bool) -> tuple[str, ModelConfig]:
    """The name to show, and the shape, of a name in env/models, a local directory or a JSON file with a config.

    A local config states whether it is quantized; for a known name `load_in_4bit` decides.
    """
    path = Path(name)
    if is_local(name):
        file = path / "config.json" if path.is_dir() else path
        if path.is_dir() and not os.path.lexists(file):
            raise BadInput(_no_model_in(path))
        hf = read_config(file)
        config = config_from_hf(hf, str(file))
        if path.is_dir() and (problem := _other_form_in(path, hf)) is not None:
            raise BadInput(problem)
        return file.parent.resolve().name if file.name == "config.json" else file.stem, config
    if (model := find_model(name)) is None:
        raise BadInput(unknown_model(name))
    config = model.config_for("nf4" if load_in_4bit else "16bit")
    if not is_dynamic(name):
        return model.name, config
    if model.dynamic is None:
        what = f"which layers {name} keeps in 16 bits is not known"
        raise BadInput(Problem("model", what, f"give its config.json, or take {model.name} without dynamic layers"))
    return f"{model.name}{DYNAMIC_SUFFIX}", changed(config, {"kept_modules": model.dynamic})


def local_notes(name: str) -> tuple[str, ...]:
    """What the pinned stack does not read of a local config.json that `resolve_model` accepts; nothing for another name.

    transformers 5 keeps rope_theta and rope_scaling in `rope_parameters`. transformers 4.48.2 has neither then, and takes its default
    (models/llama/configuration_llama.py:173-174). No memory figure depends on it, but every answer does.
    """
    if not is_local(name):
        return ()
    file = Path(name) / "config.json" if Path(name).is_dir() else Path(name)
    hf = read_config(file)
    rope = hf.get("rope_parameters")
    if not isinstance(rope, dict):
        return ()
    is_read = hf.get("rope_theta", DEFAULT_ROPE_THETA) == rope.get("rope_theta", DEFAULT_ROPE_THETA)
    if is_read and (hf.get("rope_scaling") or rope.get("rope_type", "default") == "default"):
        return ()
    return (
        f"{file}: rope_parameters is of transformers 5, and transformers 4 ignores it: the model would load with these figures, and answer "
        "nonsense. State rope_theta, and rope_scaling if rope_type is not default, beside it",
    )


def _no_model_in(folder: Path) -> Problem:
    """What a directory without a config.json holds instead, and what to give."""
    if (folder / ADAPTER_CONFIG).is_file():
        base = read_config(folder / ADAPTER_CONFIG).get("base_model_name_or_path")
        return Problem(
            str(folder),
            "holds adapters, and no model",
            f"give the model that they were trained on: {shown(base)}"
            if base
            else "give the model that they were trained on",
        )
    if any(folder.glob("*.gguf")):
        return _gguf_in(folder)
    return Problem(str(folder / "config.json"), "cannot be read (No such file or directory)", "check the path")


def _gguf_in(folder: Path) -> Problem:
    what = "holds a GGUF model, which this stack does not load"
    return Problem(str(folder), what, "give the checkpoint that it was converted from")


_SIDE_FILES = (("quantize_config.json", "gptq"), ("quant_config.json", "awq"), ("hf_quant_config.json", "modelopt"))
"""Files beside config.json by which a quantizer states what it did, with the quantizer that wrote the first of them. vLLM 0.7.2 reads them only
for a quantization that config.json names, too, and fails at the packed tensors otherwise (vllm/config.py:570-575, model_loader/weight_utils.py:135-160)."""
_WEIGHTS = ("*.safetensors", "*.bin", "*.pt")
"""What vLLM opens (vllm/model_executor/model_loader/loader.py:789)."""


def _other_form_in(folder: Path, hf: dict[str, Any]) -> Problem | None:
    """Why the weights beside a config.json are not what it describes; None if nothing says so."""
    if not (hf.get("quantization_config") or hf.get("compression_config")):
        for name, usual in _SIDE_FILES:
            if (folder / name).is_file() and (method := _side_method(read_config(folder / name), usual)) is not None:
                return Problem(
                    str(folder / name),
                    f"quantization {shown(method)} is not modelled",
                    "modelled: bitsandbytes 4-bit, and 16-bit",
                )
    if any(folder.glob("*.gguf")) and not any(any(folder.glob(each)) for each in _WEIGHTS):
        return _gguf_in(folder)
    return None


def _side_method(data: dict[str, Any], usual: str) -> str | None:
    """The quantization of the weights by a quantizer's own file; None if they are not quantized, as where only the KV cache is."""
    inner = data.get("quantization")  # NVIDIA's ModelOpt
    if isinstance(inner, dict) and "quant_algo" in inner:
        return None if inner["quant_algo"] is None else str(inner["quant_algo"])
    return str(data.get("quant_method") or usual)


def is_local(name: str) -> bool:
    """Whether the name is a directory or a JSON file rather than a model."""
    return name.endswith(".json") or os.path.isdir(Path(name))  # noqa: PTH112: False for a name that is too long


_OTHER_FORM = re.compile(
    r"(?<![a-z])(?:GGUF|AWQ|GPTQ|FP8|EXL[23]|HQQ|AQLM|EETQ|MLX|ONNX|NVFP4|MXFP4)(?![a-z])", re.IGNORECASE
)
"""Quantizations and formats that repositories are named for, and that this stack does not load."""


def unknown_model(name: str) -> Problem:
    """The Problem for a name that is neither a known model nor a directory or config.json."""
    known = [model.name for model in load_models() if model.refused is None]
    if (family := family_not_loaded(name)) is not None:
        what = f"{name!r} is a {family[0]} model by its name, which this stack does not load: {family[1]}"
        return Problem("model", what, f"modelled: {', '.join(ARCHITECTURES)}; see loadcheck list models")
    if (form := _OTHER_FORM.search(name)) is not None:
        what = f"{name!r} is stored as {form[0].upper()} by its name, which is not modelled"
        return Problem("model", what, "modelled: bitsandbytes 4-bit, and 16-bit; see loadcheck list models")
    what = f"{name!r} is not a known model, directory or config.json"
    return Problem("model", what, suggestion(_base_name(name), known))
