"""What a load on a CPU holds: every tensor of the model by kind, and the process's peak."""

from __future__ import annotations

import re
import resource
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from loadcheck.units import KIB


def held_bytes(model: Any) -> dict[str, int]:
    """Bytes of all tensors that the model holds, by kind.

    Exact, and the same in every load. With L layers, a hidden size h, a vocabulary V, a head dimension d, T = 1 for tied
    embeddings and 2 otherwise, and n = in × out for each of a layer's 7 linears (here all n are multiples of 64):

        packed         L Σ n/2                             two 4-bit weights per byte
        absmax         L Σ n/64                            one byte per block of 64 weights
        nested_absmax  L Σ (4 ⌈n/64/256⌉ + 4)              one float32 per 256 absmax, and the offset
        codes          L · 7 · (16 + 256) · 4              every linear has its own tables, though all are equal
        embeddings     T · V · h · 2
        norms          (2 L + 1) · h · 2
        buffers        d/2 · 4                             the rotary frequencies, once for all layers

    In 16 bits the first four are replaced by one: linears, L Σ 2n.
    """
    sizes: Counter[str] = Counter()
    for kind, tensor in held_tensors(model):
        sizes[kind] += tensor.nbytes
    return dict(sizes)


def held_tensors(model: Any) -> Iterator[tuple[str, Any]]:
    """Every tensor that the model holds, with its kind; shared tensors (tied embeddings) only once."""
    seen = set()
    for kind, tensor in _named_tensors(model):
        if tensor.data_ptr() not in seen:
            seen.add(tensor.data_ptr())
            yield kind, tensor


def _named_tensors(model: Any) -> Iterator[tuple[str, Any]]:
    for name, parameter in model.named_parameters():
        state = getattr(parameter, "quant_state", None)
        if state is None:
            yield kind_of(name), parameter
            continue
        yield "packed", parameter
        yield "absmax", state.absmax
        yield "nested_absmax", state.state2.absmax
        yield "nested_absmax", state.offset
        yield "codes", state.code
        yield "codes", state.state2.code
    for _, buffer in model.named_buffers():
        yield "buffers", buffer


def kind_of(name: str) -> str:
    """The kind of an unquantized parameter, by its Hugging Face name."""
    if name.endswith(("embed_tokens.weight", "lm_head.weight")):
        return "embeddings"
    return "norms" if name.endswith("norm.weight") else "linears"


def peak_rss_bytes() -> int:
    """The peak resident set of this process so far.

    Not from getrusage if there is a /proc: on Linux its ru_maxrss starts with that of the parent process.
    """
    try:
        return peak_of_status(Path("/proc/self/status").read_text(encoding="ascii"))
    except FileNotFoundError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * KIB


def peak_of_status(status: str) -> int:
    """The bytes of the line `VmHWM:  123 kB` of /proc/PID/status (there kB are KiB)."""
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    assert found is not None  # every process except kernel threads has one
    return int(found[1]) * KIB
