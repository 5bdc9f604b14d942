"""The tensors of a synthetic checkpoint: those of the real one, each with its exact size."""

from __future__ import annotations

import json
import random
import struct
import zlib
from collections.abc import Iterator
from functools import cache

from loadcheck.specs.shape import MLP_LINEARS, ModelConfig
from loadcheck.weights.noise import NOISE_BYTES, SEED, bfloat16_noise, nf4_noise
from loadcheck.weights.safetensors_file import DTYPE_BYTES, Tensor
from loadcheck.weights.small_files import NUM_TOKENS

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
