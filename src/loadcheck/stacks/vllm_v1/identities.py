"""Equations between the figures that vLLM's V1 engine (0.8 to 0.33) prints. Files are of v1/ at 0.33 where no release is named."""

from __future__ import annotations

import math
from collections.abc import Iterator

from loadcheck.errors import BadInput
from loadcheck.findings.equation import EDITED, compare, intervals_of, left_over
from loadcheck.findings.evidence import Evidence
from loadcheck.findings.finding import Check, Finding, Status
from loadcheck.findings.interval import Interval
from loadcheck.stacks.plain_vllm.allocator import tight
from loadcheck.stacks.unsloth_vllm.allocator import rounding_by
from loadcheck.stacks.unsloth_vllm.kv import BLOCK_TOKENS, block_bytes, number_bytes
from loadcheck.stacks.unsloth_vllm.weights import weights
from loadcheck.stacks.vllm_v1.lines import WHOLE_LINES, release
from loadcheck.units import MIB

WITH_WEIGHTS = ("budget_bytes", "weights_bytes", "non_torch_bytes", "activation_peak_bytes")
"""In the summary of 0.10.2 to 0.26."""
WITH_CONSUMED = ("budget_bytes", "consumed_bytes", "activation_peak_bytes")
"""In the summary from 0.27 on, whose activation peak includes the graphs' estimate if that is counted (worker/gpu_worker.py:745-748)."""
SUGGESTED_LESS_BYTES = 150 * MIB
"""A reserve that the suggested cache sizes leave (worker/gpu_worker.py:1027)."""

WEIGHTS_SHARE, WEIGHTS_MORE_BYTES = 0.01, 128 * MIB
"""How far the weights may be from what 0.7.2 holds of the same model: V1 has no rows for LoRA's tokens, and later releases have other buffers
(eight models of Llama 3, Qwen2.5 and Mistral, as public logs and documents quote them, looked up on 2026-11-30: 0.03 % less to 0.62 % more on CUDA;
one on ROCm has 67 MiB more; LOG.md lists them)."""
LEAST_BLOCK_TOKENS = 8
"""The smallest of vllm/config/cache.py: BlockSize, apart from 1, which the kernels of these models (FlashAttention: a multiple of 16) do not take."""
OTHER_WEIGHTS = "the log was edited, or the weights are not those of the named model; with cpu_offload_gb, give the line of the engine's arguments, too"

_BLOCKS_TOKENS = (16, 32, 64, 128)
"""Block sizes in use, in tokens (--block-size); CUDA's default is 16."""
_CONCURRENCY_RELEASES = ((0, 9, 2), (0, 21))
"""The releases from which the concurrency is computed from blocks, and from which the tokens are derived from it (core/kv_cache_utils.py)."""


def check_kv_cache(evidence: Evidence) -> Iterator[Finding]:
    """The KV cache is what the budget leaves, minus the estimate of the graphs where that counts."""
    if intervals := intervals_of(evidence, *WITH_WEIGHTS):
        rooms = [left_over(*intervals) - graphs for graphs in _counted_graphs(evidence)]
        reading = evidence.attempt.reading("kv_cache_bytes")
        meeting = [room for room in rooms if reading is not None and Interval.of(reading).meets(room)]
        formula = "kv_cache = budget − weights − non_torch − activation_peak − estimate of the graphs where it counts, ± 0.02 GiB"
        yield from compare(evidence, "kv_cache_bytes", (meeting or rooms)[0], formula)
    if intervals := intervals_of(evidence, *WITH_CONSUMED):
        formula = "kv_cache = budget − consumed − activation_peak, ± 0.02 GiB"
        yield from compare(evidence, "kv_cache_bytes", left_over(*intervals), formula)
    if intervals := intervals_of(evidence, "consumed_bytes"):
        yield from compare(
            evidence, "weights_bytes", Interval(0, intervals[0].high), "weights are a part of what is consumed"
        )


def _counted_graphs(evidence: Evidence) -> list[Interval]:
    """The amounts that may have been subtracted from the cache for graphs (worker/gpu_worker.py at 0.18.1, 0.19.0 to 0.26.0)."""
    nothing, estimate = Interval(0, 0), evidence.attempt.reading("graph_estimate_bytes")
    found = release(evidence.attempt.reading("vllm"))
    if estimate is None or evidence.attempt.formats["v1 graphs not counted"]:
        return [nothing]
    if found is not None and found[:2] <= (0, 18):  # 0.18 includes it in its activation peak
        return [nothing]
    if evidence.attempt.formats["v1 graphs counted"] or (found is not None and found >= (0, 21)):
        return [Interval.of(estimate)]
    return [nothing, Interval.of(estimate)]


def check_weights(evidence: Evidence) -> Iterator[Finding]:
    """The weights of a known model in 16 bits on one card: no fewer bytes than its parameters have, and not many more.

    LoRA's slots count as weights, and have any size; parts that were offloaded to the CPU (cpu_offload_gb) do not count.
    """
    model, attempt = evidence.model, evidence.attempt
    settings = {name: attempt.reading(name) for name in ("quantization", "dtype", "pipeline_parallel_size")}
    stated = {name: None if reading is None else str(reading.value) for name, reading in settings.items()}
    of_one_card = not evidence.is_parallel and stated["pipeline_parallel_size"] in (None, "1")
    in_16_bits = stated["quantization"] == "16bit" and stated["dtype"] in ("bfloat16", "float16")
    if (
        model is None
        or not in_16_bits
        or not of_one_card
        or attempt.draft_model is not None
        or attempt.formats["v1 offload"]
    ):
        return
    try:
        with rounding_by(tight):
            least = weights(model.config_for("16bit")).num_bytes
    except BadInput:
        return
    with_slots = attempt.formats["LoRA kernels"] or attempt.reading("unsloth") is not None
    most = math.inf if with_slots else least * (1 + WEIGHTS_SHARE) + WEIGHTS_MORE_BYTES
    formula = f"weights of {model.name} in 16 bits: its parameters, and a few buffers"
    yield from compare(evidence, "weights_bytes", Interval(least * (1 - WEIGHTS_SHARE), most), formula, OTHER_WEIGHTS)


def check_suggestions(evidence: Evidence) -> Iterator[Finding]:
    """The two cache sizes that the summary suggests, to the byte where their terms are printed so."""
    graphs = [Interval.of(reading) for reading in evidence.attempt.readings_of("cuda_graph_bytes")]
    for parts in (WITH_WEIGHTS, WITH_CONSUMED):
        if (intervals := intervals_of(evidence, *parts)) and graphs:
            wanted = left_over(*intervals) - graphs[-1] - Interval(SUGGESTED_LESS_BYTES, SUGGESTED_LESS_BYTES)
            formula = "the cache that fits the budget = budget − its parts − graphs − 150 MiB, ± 0.02 GiB"
            yield from compare(evidence, "budget_kv_bytes", wanted, formula)
    if intervals := intervals_of(evidence, "budget_kv_bytes", "free_on_start_bytes", "budget_bytes"):
        within, free, budget = intervals
        formula = "the cache that fills the card − the one that fits the budget = free on start − budget"
        yield from compare(evidence, "card_kv_bytes", within + (free - budget), formula)


def check_graph_pool(evidence: Evidence) -> Iterator[Finding]:
    """The graphs' memory against their estimate: the last capture's amount, and the difference in GiB and in percent."""
    captured = [Interval.of(reading) for reading in evidence.attempt.readings_of("cuda_graph_bytes")]
    if captured:
        yield from compare(evidence, "graph_pool_bytes", captured[-1], "what the last capture took")
    if intervals := intervals_of(evidence, "graph_pool_bytes", "graph_estimate_bytes"):
        actual, estimate = intervals
        apart = actual - estimate
        size = Interval(max(apart.low, -apart.high, 0.0), max(abs(apart.low), abs(apart.high)))
        yield from compare(evidence, "graph_difference_bytes", size, "difference = |actual − estimated|")
        if actual.low > 0:
            share = Interval(100 * size.low / actual.high, 100 * size.high / actual.low)
            yield from compare(evidence, "graph_difference_pct", share, "difference in percent of the actual")


def check_graphs_as_utilization(evidence: Evidence) -> Iterator[Finding]:
    """The utilization without the graphs' estimate, and with it added (worker/gpu_worker.py:780-799)."""
    needed = ("gpu_memory_utilization_pct", "graph_estimate_bytes", "gpu_total_bytes")
    if intervals := intervals_of(evidence, *needed):
        utilization, estimate, total = intervals
        share = Interval(100 * estimate.low / total.high, 100 * estimate.high / total.low)
        more = utilization + share
        yield from compare(
            evidence, "utilization_without_graphs_pct", utilization - share, "utilization − estimate / total"
        )
        most = Interval(min(more.low, 100.0), min(more.high, 100.0))
        yield from compare(evidence, "utilization_with_graphs_pct", most, "utilization + estimate / total, at most 1")
    if intervals := intervals_of(evidence, "gpu_memory_utilization_pct", "utilization_without_graphs_pct"):
        utilization, without = intervals
        more = utilization + (utilization - without)
        most = Interval(min(more.low, 100.0), min(more.high, 100.0))
        yield from compare(
            evidence, "utilization_with_graphs_pct", most, "as far above the utilization as the other is below it"
        )


def check_fitted_length(evidence: Evidence) -> Iterator[Finding]:
    """A shortened length: from the requested one to the one that the cache can serve."""
    lengths = evidence.attempt.readings_of("max_model_len")
    if evidence.attempt.reading("fitted_length") is None or len(lengths) < 2:
        return
    yield from compare(evidence, "asked_length", Interval.of(lengths[0]), "the length that the engine began with")
    yield from compare(evidence, "fitted_length", Interval.of(lengths[-1]), "the length that the cache serves")


def check_tokens(evidence: Evidence) -> Iterator[Finding]:
    """The size of the cache against its concurrency, which is printed to two decimals.

    Up to 0.9.1 concurrency is tokens / length; then blocks / blocks per request, whose last block counts as full; from 0.21 on the tokens
    are ⌊concurrency × length⌋ (core/kv_cache_utils.py at 0.8.5:632-638, 0.18.1:1299-1321, 0.21.0:1697-1712). In between, a model with
    windowed or recurrent layers has fewer tokens than that; new ones keep appearing, so only models in env/models must be equal.
    """
    lengths = [Interval.of(reading) for reading in evidence.attempt.readings_of("max_model_len")]
    reading, tokens = evidence.attempt.reading("max_concurrency"), evidence.attempt.reading("kv_cache_tokens")
    if reading is None or tokens is None or not lengths or evidence.is_parallel:
        return
    length = lengths[-1].low
    concurrency, found = Interval.of(reading), release(evidence.attempt.reading("vllm"))
    of_blocks = found is None or _CONCURRENCY_RELEASES[0] <= found < _CONCURRENCY_RELEASES[1]
    per_request = [length, *(-(-length // size) * size for size in _BLOCKS_TOKENS if of_blocks)]
    sizes = [concurrency.scaled(tokens).widened(BLOCK_TOKENS) for tokens in per_request]
    wanted = next((size for size in sizes if Interval.of(tokens).meets(size)), sizes[0])
    formula = "kv_cache_tokens = max_concurrency × max_model_len"
    if of_blocks and evidence.model is None:
        wanted = Interval(0, wanted.high)
        formula = (
            "kv_cache_tokens ≤ max_concurrency × max_model_len: layers of an unknown model may keep only a window of it"
        )
    yield from compare(evidence, "kv_cache_tokens", wanted, formula)


def check_whole_blocks(evidence: Evidence) -> Iterator[Finding]:
    """Before 0.21 the tokens are those of whole blocks (core/kv_cache_utils.py at 0.18.1:1299), and a known model's blocks have at least 8 tokens."""
    found, tokens = release(evidence.attempt.reading("vllm")), evidence.attempt.reading("kv_cache_tokens")
    if (
        evidence.model is None
        or found is None
        or found >= _CONCURRENCY_RELEASES[1]
        or tokens is None
        or evidence.is_parallel
    ):
        return
    whole = int(tokens.value) // LEAST_BLOCK_TOKENS * LEAST_BLOCK_TOKENS
    formula = f"kv_cache_tokens are whole blocks, of {LEAST_BLOCK_TOKENS}, 16 or more tokens"
    yield from compare(evidence, "kv_cache_tokens", Interval(whole, whole), formula)


def check_unread(evidence: Evidence) -> Iterator[Finding]:
    """A line that not every start prints is as vLLM prints it, if it is there: otherwise it would count as not printed."""
    for begun, whole in WHOLE_LINES.items():
        if evidence.attempt.formats[begun] and not any(evidence.attempt.formats[name] for name in whole):
            line = evidence.attempt.first_lines[begun]
            yield Finding(figure=whole[0], check=Check.IDENTITY, status=Status.FAIL, where=evidence.where(line), remedy=EDITED,
                          why="the line is in the log, but not with the numbers and units that vLLM prints")  # fmt: skip


def check_tokens_of_memory(evidence: Evidence) -> Iterator[Finding]:
    """The cache's tokens fill its memory in whole blocks, for a model whose shape is known."""
    dtype = evidence.attempt.reading("kv_cache_dtype")
    size = number_bytes(None if dtype is None else str(dtype.value))
    model = evidence.model
    if model is None or size is None or evidence.is_parallel:
        return
    if intervals := intervals_of(evidence, "kv_cache_bytes"):
        token_bytes = block_bytes(model.num_layers, model.kv_size, size) / BLOCK_TOKENS
        tokens = intervals[0].scaled(1 / token_bytes)
        lowest = tokens.low * _least_used(evidence) - _BLOCKS_TOKENS[-1]
        formula = f"kv_cache_tokens = ⌊kv_cache / block⌋ × tokens of a block, {token_bytes / 1024:.1f} KiB a token of {model.name}"
        if evidence.attempt.draft_model is not None:
            lowest = 0.0
            formula += "; at most, as the draft model's layers share the cache"
        yield from compare(evidence, "kv_cache_tokens", Interval(lowest, tokens.high), formula)


def _least_used(evidence: Evidence) -> float:
    """The smallest share of a request's blocks that its tokens fill: from 0.21 on only these are counted (core/kv_cache_utils.py:1128)."""
    lengths = [int(reading.value) for reading in evidence.attempt.readings_of("max_model_len")]
    found = release(evidence.attempt.reading("vllm"))
    if not lengths or lengths[-1] < 1 or (found is not None and found < _CONCURRENCY_RELEASES[1]):
        return 1.0
    return min(lengths[-1] / (-(-lengths[-1] // size) * size) for size in _BLOCKS_TOKENS)
