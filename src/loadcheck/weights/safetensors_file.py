"""Writes safetensors files tensor by tensor, with the standard library alone.

The safetensors library can only write whole files from memory, of which a machine whose GPU holds the model may not have enough.
"""

from __future__ import annotations

import json
import math
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loadcheck.units import GIB, show_bytes

DTYPE_BYTES = {"F32": 4, "BF16": 2, "U8": 1}
"""The safetensors dtypes that a checkpoint has, in the order in which the safetensors library writes them."""
_ZEROS = bytes(1 << 20)


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
        yield from _cycle(_ZEROS, 0, self.num_bytes - filled)


def _cycle(pattern: bytes, start: int, num_bytes: int) -> Iterator[memoryview]:
    view = memoryview(pattern)
    while num_bytes > 0:
        chunk = view[start : start + num_bytes]
        yield chunk
        num_bytes -= len(chunk)
        start = 0


def header(tensors: list[Tensor]) -> bytes:
    """The length of the JSON (8 bytes), then the JSON itself, padded to 8 bytes with spaces as by the safetensors library."""
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
        for chunk in (chunk for tensor in tensors for chunk in tensor.chunks()):
            file.write(chunk)
            before, written = written, written + len(chunk)
            if before // GIB != written // GIB:
                progress = f"synthetic weights: {show_bytes(written)} of {show_bytes(total)}"
                print(progress, file=sys.stderr, flush=True)
