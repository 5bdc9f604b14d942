"""Makes checkpoints with random weights for a real architecture.

They have the layout of a Hugging Face checkpoint and its exact size, so that every memory figure of a load is that of
the real model (none depends on a value). The standard library suffices, and the same seed gives the same file on every machine.
"""

from __future__ import annotations

import json
import os
import shutil
from hashlib import sha256
from pathlib import Path
from typing import Any

from loadcheck.errors import BadInput, Problem, UnsupportedMachine
from loadcheck.plan import LoadPlan
from loadcheck.specs.model import find_model
from loadcheck.specs.shape import ModelConfig
from loadcheck.units import show_bytes
from loadcheck.weights.cache import locked
from loadcheck.weights.noise import SEED
from loadcheck.weights.safetensors_file import Tensor, file_bytes, header, write_safetensors
from loadcheck.weights.small_files import NUM_TOKENS, small_files
from loadcheck.weights.synthetic_tensors import checkpoint_tensors


def prepare(plan: LoadPlan, cache: Path) -> Path:
    """The directory of the plan's synthetic checkpoint under `cache`, made if it does not exist yet.

    If two processes do this at once, the second waits: it must not replace files that the first one's load is already reading. BadInput if the
    vocabulary is smaller than the tokenizer's; UnsupportedMachine if the disk is too small.
    """
    config = plan.config
    if config.vocab_size < NUM_TOKENS:
        what = f"{config.vocab_size} is less than the {NUM_TOKENS} tokens of the synthetic tokenizer"
        raise BadInput(Problem(plan.model_name, what, "use a model with a larger vocabulary", "vocab_size"))
    directory = cache / "synthetic" / directory_name(plan.model_name, config)
    files = {name: json.dumps(data, indent=2) + "\n" for name, data in small_files(_hf_config(plan), config).items()}
    tensors = checkpoint_tensors(config)
    manifest = _manifest(files, tensors)
    files["manifest.json"] = manifest
    if _is_complete(directory, files, tensors):
        return directory
    directory.parent.mkdir(parents=True, exist_ok=True)
    with locked(directory):
        if not _is_complete(directory, files, tensors):
            _check_disk(directory.parent, file_bytes(tensors))
            _make(directory, files, tensors)
    return directory


def directory_name(model_name: str, config: ModelConfig) -> str:
    """The checkpoint's folder; unsloth_zoo loads in 4-bit if and only if it ends in -bnb-4bit (vllm_utils.py:869)."""
    base = model_name.lower().removesuffix("-bnb-4bit").removesuffix("-unsloth")
    dynamic = "-unsloth" if config.kept_modules else ""
    return f"{base}{dynamic}-bnb-4bit" if config.quantization == "nf4" else base


def _hf_config(plan: LoadPlan) -> dict[str, Any]:
    """The raw Hugging Face config without quantization, from the file that the profile names, else from env/models."""
    path = Path(plan.profile.model)
    if path.is_dir() or path.name == "config.json":
        file = path / "config.json" if path.is_dir() else path
        hf: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    else:
        model = find_model(plan.profile.model)
        assert model is not None  # make_plan has found it
        hf = dict(model.config)
    hf.pop("quantization_config", None)
    return hf


def _manifest(files: dict[str, str], tensors: list[Tensor]) -> str:
    """The manifest that a folder must have to be reused: for the same small files, seed and size."""
    digest = sha256("".join(files.values()).encode()).hexdigest()
    return json.dumps({"seed": SEED, "safetensors_bytes": file_bytes(tensors), "small_files_sha256": digest}) + "\n"


def _is_complete(directory: Path, files: dict[str, str], tensors: list[Tensor]) -> bool:
    """Whether everything that a figure can depend on is correct: the small files exactly, the weights by header and length.

    Their values are noise and are not checked: that would take as long as making them again.
    """
    weights, wanted = directory / "model.safetensors", header(tensors)
    try:
        same = all((directory / name).read_bytes() == text.encode() for name, text in files.items())
        with weights.open("rb") as file:
            return same and file.read(len(wanted)) == wanted and weights.stat().st_size == file_bytes(tensors)
    except OSError:
        return False


def _check_disk(cache: Path, needed: int) -> None:
    free = shutil.disk_usage(cache).free
    if free < needed:
        what = f"{show_bytes(free)} of disk are free, the synthetic weights take {show_bytes(needed)}"
        raise UnsupportedMachine(Problem(str(cache), what, "free some space, or choose another cache folder"))


def _make(directory: Path, files: dict[str, str], tensors: list[Tensor]) -> None:
    """Write everything to a temporary folder, then rename it to `directory`, which is therefore always a whole checkpoint."""
    partial = directory.with_name(f".{directory.name}.{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        for name, text in files.items():
            (partial / name).write_text(text, encoding="utf-8")
        write_safetensors(partial / "model.safetensors", tensors)
        shutil.rmtree(directory, ignore_errors=True)
        partial.rename(directory)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
