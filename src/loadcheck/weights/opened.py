"""Checks that the engine would open nothing but pure data in a local directory: a pickle runs code when it is read.

torch 2.5.1 runs such code even with `weights_only=True` (CVE-2025-32434), so no pickle is opened at all. A pickle next to safetensors,
which is never opened, is allowed.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import IO, Any

from loadcheck.disk import read_at_most
from loadcheck.errors import Problem, printable, shortlist

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
CONVERT = "convert it to safetensors on a machine that may run what is in it, or use a checkpoint that has them"
WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
MAX_HEADER_BYTES = 100_000_000
"""The limit of the format (safetensors/src/tensor.rs, MAX_HEADER_SIZE)."""
MAX_JSON_BYTES = 64 * 1024 * 1024


def unsafe(directory: Path, by_engine: bool) -> tuple[Problem, ...]:
    """One problem for each file that the engine would open in `directory` and that is not pure data. Files are only read as bytes here.

    Args:
        by_engine: whether vLLM reads the weights: every *.safetensors, and *.bin and *.pt only if there is none
            (vllm/model_executor/model_loader/loader.py:278). Otherwise transformers does: model.safetensors, or what its index
            lists, else pytorch_model.bin (transformers/modeling_utils.py:3674-3706).
    """
    return (*_weights(directory, by_engine), *_adapters(directory), *_code(directory))


def _weights(directory: Path, by_engine: bool) -> Iterator[Problem]:
    found = sorted(path for path in directory.iterdir() if path.suffix == ".safetensors")
    pickles = sorted(path.name for path in directory.iterdir() if _is_pickle(path.name))
    if not found:
        named = f"holds no safetensors, only {_listed(pickles)}" if pickles else "holds no weights: no safetensors"
        yield Problem(str(directory), f"{named}{_why(pickles)}", CONVERT, "model")
        return
    has_whole, has_index = (directory / WHOLE).is_file(), (directory / INDEX).is_file()
    bins = [name for name in pickles if name.startswith("pytorch_model") and name.endswith(".bin")]
    if bins and not (by_engine or has_whole or has_index):
        what = f"has neither {WHOLE} nor {INDEX}, so {_listed(bins)} would be opened{_why(bins)}"
        yield Problem(str(directory), what, CONVERT, "model")
    shards: list[str] = []
    if has_index and (by_engine or not has_whole):
        shards, problem = _shards(directory / INDEX)
        if problem:
            yield problem
    for path in dict.fromkeys((*found, *(directory / name for name in shards))):
        why = not_safetensors(path)
        if why:
            yield Problem(str(path), f"is not a safetensors file: {why}", "download or convert it again")


def _adapters(directory: Path) -> Iterator[Problem]:
    """Adapters are attached by PEFT, which loads adapter_model.bin if there are no safetensors (peft/utils/save_and_load.py)."""
    has_config, pickle = os.path.lexists(directory / "adapter_config.json"), "adapter_model.bin"
    has_safe = (directory / "adapter_model.safetensors").is_file()  # `_weights` looks into it
    if has_config and not has_safe and os.path.lexists(directory / pickle):
        yield Problem(str(directory), f"its adapters are only in {pickle}{_why([pickle])}", CONVERT, "model")


def _code(directory: Path) -> Iterator[Problem]:
    """A model with its own Python code lists it in auto_map; this stack runs no such code (trust_remote_code is never set)."""
    for name in ("config.json", "tokenizer_config.json", "generation_config.json", "processor_config.json"):
        path = directory / name
        data = _read_json(path) if path.is_file() else None
        if isinstance(data, dict) and data.get("auto_map"):
            what = "the model has its own code, which is not run here (trust_remote_code)"
            yield Problem(
                str(path), what, "use a model whose code is part of transformers, or remove auto_map", "auto_map"
            )


def not_safetensors(path: Path) -> str:
    """Why `path` is not a safetensors file, by its header; empty if it is one. Links are followed."""
    try:
        # Only a regular file is read; O_NONBLOCK keeps a pipe without a writer from blocking.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            return _wrong_header(file, status.st_size) if stat.S_ISREG(status.st_mode) else "it is not a regular file"
    except OSError as error:
        return f"it cannot be read ({error.strerror})"


def _wrong_header(file: IO[bytes], num_bytes: int) -> str:
    """What is wrong with the header: its length as 8 bytes, little-endian, then a JSON object."""
    length = file.read(8)
    num_header_bytes = int.from_bytes(length, "little")
    if length == b"version ":
        return "it is a pointer of Git LFS; git lfs pull"
    if len(length) < 8 or num_header_bytes > min(MAX_HEADER_BYTES, num_bytes - 8):
        return "it does not begin with the length of a header" + _looks_like(length)
    try:
        return "" if isinstance(json.loads(file.read(num_header_bytes)), dict) else "its header is not a JSON object"
    except (ValueError, RecursionError):
        return "its header is not JSON"


def _looks_like(first: bytes) -> str:
    """A remark if it looks like PyTorch's own files: zip archives, or bare pickles of protocol 2 and later."""
    if first.startswith(b"PK\x03\x04"):
        return " (it is a zip archive, as torch.save writes a pickle)"
    return " (it is a pickle)" if first[:1] == b"\x80" and first[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05") else ""


def _shards(index: Path) -> tuple[list[str], Problem | None]:
    """The safetensors that the index lists, and a problem if it lists other kinds of files, or files elsewhere."""
    data = _read_json(index)
    weight_map = data.get("weight_map") if isinstance(data, dict) else None
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        what = "is not an index: it has no weight_map of file names"
        return [], Problem(str(index), what, "download it again", "weight_map")
    names = sorted(set(weight_map.values()))
    wrong = [name for name in names if not name.endswith(".safetensors") or PurePath(name).name != name]
    if not wrong:
        return names, None
    what = f"lists {_listed(wrong)}, not safetensors of this directory{_why(wrong)}"
    return [name for name in names if name not in wrong], Problem(str(index), what, CONVERT, "weight_map")


def _read_json(path: Path) -> Any:
    """The data of a JSON file; None if it is not JSON, or far too large."""
    try:
        return json.loads(read_at_most(path, MAX_JSON_BYTES))
    except (OSError, ValueError, RecursionError):
        return None


def _is_pickle(name: str) -> bool:
    return PurePath(name).suffix.lower() in PICKLES or (
        name.startswith("consolidated.") and not name.endswith((".json", ".safetensors"))
    )


def _listed(names: list[str]) -> str:
    return printable(shortlist(names, 3))


def _why(names: list[str]) -> str:
    if not any(map(_is_pickle, names)):
        return ""
    return ": a pickle, which runs code when it is opened (CVE-2025-32434, torch 2.5.1)"
