"""What the lines of vLLM's V1 engine (0.8 to 0.33) state of each other."""

from __future__ import annotations

import re
from collections.abc import Iterator

from loadcheck.figures import Reading
from loadcheck.findings.equation import compare, intervals_of, left_over
from loadcheck.findings.evidence import Evidence
from loadcheck.findings.finding import Finding
from loadcheck.findings.interval import Interval
from loadcheck.stacks.unsloth_vllm.kv import BLOCK_TOKENS, KV_DTYPE_BYTES, block_bytes

_GRAPHS_FIRST_COUNTED, _GRAPHS_ALWAYS_COUNTED = (0, 18), (0, 21)
"""Releases from which graph memory can be, and is, taken from the cache (gpu_worker.py:753-757 at 0.33)."""
_PARTS = (("weights_bytes", "non_torch_bytes", "activation_peak_bytes"), ("consumed_bytes", "activation_peak_bytes"))
"""Of the summary of 0.11 to 0.20, and of 0.33's, which gives weights and non_torch in one."""
_KV_DTYPE_BYTES = {"auto": KV_DTYPE_BYTES, "bfloat16": 2, "float16": 2, "fp8": 1, "fp8_e4m3": 1, "fp8_e5m2": 1}
_MOST_BLOCK_TOKENS = 128
"""Tokens of the largest block that is in use (--block-size); CUDA's own is 16."""


def check_kv_cache(evidence: Evidence) -> Iterator[Finding]:
    """The cache is what the budget leaves, with the graphs or without them: two amounts, and none between."""
    for parts in _PARTS:
        if intervals := intervals_of(evidence, "budget_bytes", *parts):
            rooms = [left_over(*intervals) - graphs for graphs in _graphs(evidence)]
            reading = evidence.attempt.reading("kv_cache_bytes")
            meeting = [room for room in rooms if reading is not None and Interval.of(reading).meets(room)]
            names = " − ".join(part.removesuffix("_bytes") for part in parts)
            counted = f" ({' or '.join(_said(graphs) for graphs in _graphs(evidence))})"
            yield from compare(evidence, "kv_cache_bytes", (meeting or rooms)[0],
                               f"kv_cache = budget − {names}, ± 0.02 GiB{counted}")  # fmt: skip


def _graphs(evidence: Evidence) -> list[Interval]:
    """The amounts of graph memory that may have been taken from the cache: its estimate where it is printed, else by the release."""
    estimate = evidence.attempt.reading("graph_estimate_bytes")
    if estimate is not None:
        return [Interval.of(estimate)]
    captured = [Interval.of(each) for each in evidence.attempt.readings if each.attribute == "cuda_graph_bytes"]
    release = _release(evidence.attempt.reading("vllm"))
    if not captured or (release is not None and release < _GRAPHS_FIRST_COUNTED):
        return [Interval(0, 0)]
    always = release is not None and release >= _GRAPHS_ALWAYS_COUNTED
    return [*([] if always else [Interval(0, 0)]), *captured]


def _said(graphs: Interval) -> str:
    return (
        "without graphs" if graphs == Interval(0, 0) else f"without another {graphs.middle / 2**30:.2f} GiB of graphs"
    )


def _release(reading: Reading | None) -> tuple[int, int] | None:
    match = re.match(r"(\d{1,4})\.(\d{1,4})", "" if reading is None else str(reading.value))
    return (int(match[1]), int(match[2])) if match else None


def check_tokens_of_memory(evidence: Evidence) -> Iterator[Finding]:
    """The cache's tokens are as many as its memory holds in whole blocks, of a model whose shape is known."""
    dtype = evidence.attempt.reading("kv_cache_dtype")
    size = _KV_DTYPE_BYTES.get("auto" if dtype is None else str(dtype.value))
    model = evidence.model
    if model is None or size is None or evidence.is_parallel:
        return
    if intervals := intervals_of(evidence, "kv_cache_bytes"):
        token_bytes = block_bytes(model.num_layers, model.kv_size) * size / KV_DTYPE_BYTES / BLOCK_TOKENS
        tokens = intervals[0].scaled(1 / token_bytes)
        formula = f"kv_cache_tokens = ⌊kv_cache / block⌋ × tokens of a block, {token_bytes / 1024:.1f} KiB a token of {model.name}"
        yield from compare(evidence, "kv_cache_tokens", Interval(tokens.low - _MOST_BLOCK_TOKENS, tokens.high), formula)
