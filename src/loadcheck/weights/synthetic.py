"""Makes checkpoints with random weights for a real architecture.

They have the layout of a Hugging Face checkpoint and its exact size, so that every memory figure of a load is that of
the real model (none depends on a value). Their values are such that logits stay finite and a few training steps lower the
loss. Standard library only: one block of noise is generated and written repeatedly, so the disk is the bottleneck.
The same seed gives the same file on every machine.
"""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import struct
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from loadcheck.errors import BadInput, Problem, UnsupportedMachine
from loadcheck.plan import LoadPlan
from loadcheck.specs.model import find_model
from loadcheck.specs.shape import MLP_LINEARS, ModelConfig
from loadcheck.units import GIB, show_bytes
from loadcheck.weights.cache import locked
from loadcheck.weights.small_files import NUM_TOKENS, small_files

SEED = 35
"""Only the text of `nested_offset` depends on it, a number of 16 to 21 digits in each of the 224 quantization states of
Llama 3.1 8B: with this seed their total length is that of the real file, so that the two files have the same size."""

# bitsandbytes/functional.py:885-902 at 0.46.1: the 16 levels of NF4
NF4_LEVELS = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
NF4_BLOCK_SIZE = 64  # elements that share one absmax
NESTED_BLOCK_SIZE = 256  # absmax values that share one nested_absmax
# An absmax is between 0.03 and 0.05, which gives weights a standard deviation of about 0.02, as trained ones have.
NESTED_ABSMAX = 0.01
NESTED_OFFSETS = (0.039, 0.041)

NOISE_BYTES = 1_048_573
"""Length of the block of noise: a prime, so that the rows of a matrix begin at different offsets."""

DTYPE_BYTES = {"F32": 4, "BF16": 2, "U8": 1}
"""The safetensors dtypes that a checkpoint has, in the order in which the safetensors library writes them."""


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


# ---------------------------------------------------------------------------------------------------------------- tensors


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a safetensors file.

    Attributes:
        pattern: the bytes that it repeats.
        start: the offset in the pattern at which it begins.
        filled_bytes: how many of its bytes come from the pattern, followed by zeros; None for all.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    pattern: bytes = field(repr=False)
    start: int = 0
    filled_bytes: int | None = None

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * DTYPE_BYTES[self.dtype]

    def chunks(self) -> Iterator[memoryview]:
        """Its bytes, in pieces of at most one pattern."""
        filled = self.num_bytes if self.filled_bytes is None else self.filled_bytes
        yield from _cycle(self.pattern, self.start, filled)
        yield from _cycle(bytes(NOISE_BYTES), 0, self.num_bytes - filled)


def _cycle(pattern: bytes, start: int, num_bytes: int) -> Iterator[memoryview]:
    view = memoryview(pattern)
    while num_bytes > 0:
        chunk = view[start : start + num_bytes]
        yield chunk
        num_bytes -= len(chunk)
        start = 0


def checkpoint_tensors(config: ModelConfig) -> list[Tensor]:
    """Every tensor of the checkpoint, in the safetensors library's order: widest dtype first, then by name."""
    tensors = [_embedding(config, "model.embed_tokens.weight"), _ones("model.norm.weight", config.hidden_size)]
    if not config.tie_word_embeddings:
        tensors.append(_embedding(config, "lm_head.weight"))
    for layer in range(config.num_hidden_layers):
        tensors += _layer(config, layer)
    dtypes = list(DTYPE_BYTES)
    return sorted(tensors, key=lambda tensor: (dtypes.index(tensor.dtype), tensor.name))


def _layer(config: ModelConfig, number: int) -> Iterator[Tensor]:
    layer = f"model.layers.{number}"
    yield _ones(f"{layer}.input_layernorm.weight", config.hidden_size)
    yield _ones(f"{layer}.post_attention_layernorm.weight", config.hidden_size)
    for name, (num_in, num_out) in config.linears.items():
        block = "mlp" if name in MLP_LINEARS else "self_attn"
        prefix = f"{layer}.{block}.{name}"
        if config.is_in_4bit(number, name):
            yield from _nf4_linear(f"{prefix}.weight", num_out, num_in)
        else:
            yield _noise(f"{prefix}.weight", "BF16", (num_out, num_in))
        if _has_bias(config, name):
            yield _noise(f"{prefix}.bias", "BF16", (num_out,))


def _has_bias(config: ModelConfig, linear: str) -> bool:
    if linear in ("q_proj", "k_proj", "v_proj"):
        return config.qkv_bias
    return config.o_bias if linear == "o_proj" else config.mlp_bias


def _nf4_linear(weight: str, num_out: int, num_in: int) -> Iterator[Tensor]:
    """A linear in NF4 with double quantization, as bitsandbytes saves it (functional.py, QuantState.as_dict at 0.46.1)."""
    num_elements = num_out * num_in
    num_blocks = -(-num_elements // NF4_BLOCK_SIZE)
    num_nested = -(-num_blocks // NESTED_BLOCK_SIZE)
    state = json.dumps(
        {
            "quant_type": "nf4",
            "blocksize": NF4_BLOCK_SIZE,
            "dtype": "bfloat16",
            "shape": [num_out, num_in],
            "nested_blocksize": NESTED_BLOCK_SIZE,
            "nested_dtype": "float32",
            "nested_offset": _nested_offset(weight),
        }
    ).encode()
    yield _noise(weight, "U8", (-(-num_elements // 2), 1))
    yield _noise(f"{weight}.absmax", "U8", (num_blocks,))
    yield Tensor(f"{weight}.nested_absmax", "F32", (num_nested,), _float32s(NESTED_ABSMAX))
    yield Tensor(f"{weight}.nested_quant_map", "F32", (256,), _nested_levels())
    yield Tensor(f"{weight}.quant_map", "F32", (16,), _float32s(*NF4_LEVELS))
    yield Tensor(f"{weight}.quant_state.bitsandbytes__nf4", "U8", (len(state),), state)


@cache
def _nested_levels() -> bytes:
    """The levels of the 8-bit codes in which the absmax of NF4 are kept."""
    return _float32s(*(level / 127.5 - 1 for level in range(256)))


def _nested_offset(weight: str) -> float:
    """The mean absmax of a linear, rounded to a float32, so that its text has as many digits as one."""
    (offset,) = struct.unpack("<f", struct.pack("<f", random.Random(f"{SEED} {weight}").uniform(*NESTED_OFFSETS)))
    return float(offset)


def _embedding(config: ModelConfig, name: str) -> Tensor:
    """Noise for the tokenizer's tokens; zeros for the others, whose logits of 0 greedy decoding never picks."""
    shape = (config.vocab_size, config.hidden_size)
    return _noise(name, "BF16", shape, filled_bytes=NUM_TOKENS * config.hidden_size * DTYPE_BYTES["BF16"])


def _noise(name: str, dtype: str, shape: tuple[int, ...], filled_bytes: int | None = None) -> Tensor:
    pattern = bfloat16_noise() if dtype == "BF16" else nf4_noise()
    start = zlib.crc32(name.encode()) % NOISE_BYTES * DTYPE_BYTES[dtype]
    return Tensor(name, dtype, shape, pattern, start, filled_bytes)


def _ones(name: str, length: int) -> Tensor:
    return Tensor(name, "BF16", (length,), b"\x80\x3f" * 1024)


def _float32s(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


@cache
def nf4_noise() -> bytes:
    """Random bytes, each a pair of NF4 codes, with a mean of about 0.

    The mean of all 16 levels is 0.024, and a matrix with a nonzero mean drives all activations to the same vector, layer after layer.
    With level 11 (0.338) replaced by level 7 (0), it is 0.002.
    """
    codes = [7 if code == 11 else code for code in range(16)]
    pairs = bytes(codes[byte >> 4] << 4 | codes[byte & 15] for byte in range(256))
    return random.Random(SEED).randbytes(NOISE_BYTES).translate(pairs)


@cache
def bfloat16_noise() -> bytes:
    """Random bfloat16 numbers of either sign with magnitudes from 2**-7 to 2**-5: a standard deviation of 0.019."""
    signs = bytes(
        byte & 0x80 | 0x3C for byte in range(256)
    )  # the sign, and an exponent whose last bit is in the low byte
    noise = bytearray(2 * NOISE_BYTES)
    noise[0::2] = random.Random(SEED + 1).randbytes(NOISE_BYTES)
    noise[1::2] = random.Random(SEED + 2).randbytes(NOISE_BYTES).translate(signs)
    return bytes(noise)


# ------------------------------------------------------------------------------------------------------------ safetensors


def header(tensors: list[Tensor]) -> bytes:
    """The header of a safetensors file: the length of the JSON (8 bytes), then the JSON itself.

    It is padded to 8 bytes with spaces, as by the safetensors library. That library can only write whole files from memory, of which a
    machine whose GPU holds the model may not have enough; hence our own writer.
    """
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    begin = 0
    for tensor in tensors:
        end = begin + tensor.num_bytes
        entries[tensor.name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": (begin, end)}
        begin = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def file_bytes(tensors: list[Tensor]) -> int:
    """Size of the safetensors file.

    For Llama 3.1 8B in NF4 it is 5,702,746,371 bytes: 5,702,577,939 of 1,411 tensors, 168,424 of JSON, and 8.
    """
    return len(header(tensors)) + sum(tensor.num_bytes for tensor in tensors)


def write_safetensors(path: Path, tensors: list[Tensor]) -> None:
    """Write the file, tensor by tensor; prints each GiB to stderr."""
    total, written = file_bytes(tensors), 0
    with path.open("wb") as file:
        file.write(header(tensors))
        for tensor in tensors:
            for chunk in tensor.chunks():
                file.write(chunk)
                before, written = written, written + len(chunk)
                if before // GIB != written // GIB:
                    print(
                        f"synthetic weights: {show_bytes(written)} of {show_bytes(total)}", file=sys.stderr, flush=True
                    )


# ---------------------------------------------------------------------------------------------------------------- folder


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
