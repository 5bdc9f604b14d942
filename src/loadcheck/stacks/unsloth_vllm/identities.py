"""Equations that hold between the figures that unsloth and vLLM's V0 engine print, for any model, GPU and settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from loadcheck.figures import Reading
from loadcheck.findings.equation import EDITED, KV_SLACK_BYTES, compare, intervals_of, left_over
from loadcheck.findings.evidence import Evidence
from loadcheck.findings.finding import Check, Finding
from loadcheck.findings.interval import Interval
from loadcheck.findings.stack import Identity
from loadcheck.logs import Attempt
from loadcheck.specs.lora import possible_ranks
from loadcheck.specs.model import find_model
from loadcheck.specs.profile import VLLM_LORA_RANKS
from loadcheck.specs.shape import ModelConfig
from loadcheck.specs.versions import load_versions
from loadcheck.stacks.unsloth_vllm.graphs import capture_sizes, captured_in_log
from loadcheck.stacks.unsloth_vllm.kv import BLOCK_TOKENS, block_bytes, number_bytes
from loadcheck.stacks.unsloth_vllm.plan import kv_estimate, num_sequences
from loadcheck.stacks.unsloth_vllm.refusals import FLASH_CAPABILITY
from loadcheck.units import GIB


def check_budget(evidence: Evidence) -> Iterator[Finding]:
    """budget = total × utilization."""
    if intervals := intervals_of(evidence, "gpu_total_bytes", "gpu_memory_utilization_pct"):
        total, utilization = intervals
        yield from compare(evidence, "budget_bytes", total * utilization.scaled(0.01), "budget = total × utilization")


def check_kv_cache(evidence: Evidence) -> Iterator[Finding]:
    """The KV cache is what the budget leaves."""
    parts = ("budget_bytes", "weights_bytes", "non_torch_bytes", "activation_peak_bytes")
    if intervals := intervals_of(evidence, *parts):
        formula = "kv_cache = budget − weights − non_torch − activation_peak, ± 0.02 GiB"
        yield from compare(evidence, "kv_cache_bytes", left_over(*intervals), formula)


def check_kv_cache_of_0_6_4(evidence: Evidence) -> Iterator[Finding]:
    """0.6.4 prints no budget, and counts the weights in torch's peak (vllm/worker/worker.py at 0.6.4)."""
    parts = ("gpu_total_bytes", "gpu_memory_utilization_pct", "peak_torch_bytes", "non_torch_bytes")
    if intervals := intervals_of(evidence, *parts):
        total, share, peak, non_torch = intervals
        left = total * share.scaled(0.01) - peak - non_torch
        formula = "kv_cache = total × utilization − peak_torch − non_torch"
        yield from compare(evidence, "kv_cache_bytes", left.widened(KV_SLACK_BYTES), formula)


def _block_bytes(evidence: Evidence) -> tuple[Interval, str] | None:
    """Bytes of one KV block: exact for a known model, else the interval implied by the number of blocks in the log's own swap space."""
    dtype = evidence.attempt.reading("kv_cache_dtype")
    size = number_bytes(None if dtype is None else str(dtype.value))
    if (model := evidence.model) is not None and size is not None:
        exact = block_bytes(model.num_layers, model.kv_size, size)
        return Interval(exact, exact), f"of {model.name}"
    swap, blocks = evidence.attempt.reading("swap_bytes"), evidence.attempt.reading("num_cpu_blocks")
    if swap is None or blocks is None or not swap.value or not blocks.value:
        return None
    assert not isinstance(swap.value, str) and not isinstance(blocks.value, str)
    return Interval(swap.value / (blocks.value + 1), swap.value / blocks.value), "from swap / CPU blocks"


def check_gpu_blocks(evidence: Evidence) -> Iterator[Finding]:
    """The number of KV blocks follows from the cache's size."""
    size = _block_bytes(evidence)
    if size and not evidence.is_parallel and (intervals := intervals_of(evidence, "kv_cache_bytes")):
        kv = intervals[0] * Interval(1 / size[0].high, 1 / size[0].low)
        # vllm/worker/worker.py:245-249 at 0.7.2: int(kv // block bytes), at least 0
        blocks = Interval(max(kv.low // 1, 0), max(kv.high // 1, 0))
        formula = f"num_gpu_blocks = ⌊kv_cache / block⌋, block {size[0].high / 1024:.1f} KiB {size[1]}"
        if evidence.attempt.draft_model is not None:
            blocks, share = _beside_draft(evidence, blocks, size[0])
            formula += f"; {share}"
        yield from compare(evidence, "num_gpu_blocks", blocks, formula, WRONG_MODEL)


def _beside_draft(evidence: Evidence, blocks: Interval, size: Interval) -> tuple[Interval, str]:
    """The blocks that are left if a draft model gets as many, within the same memory (vllm/spec_decode/spec_decode_worker.py:1250-1270 at 0.7.2).

    Some drafts need none, and the size of others is not known: then their number is only limited.
    """
    draft = find_model(str(evidence.attempt.draft_model))
    dtype = evidence.attempt.reading("kv_cache_dtype")
    number = number_bytes(None if dtype is None else str(dtype.value))
    if draft is None or number is None:
        return Interval(0, blocks.high), "at most, as a draft model of unknown size may share it"
    beside = block_bytes(draft.num_layers, draft.kv_size, number)
    low, high = (
        num * block / (block + beside) // 1 for num, block in ((blocks.low, size.low), (blocks.high, size.high))
    )
    return Interval(low, high), f"times its share, as {draft.name} has as many of {beside / 1024:.1f} KiB"


WRONG_MODEL = "the log names another model than it loaded, or was edited; give the raw output of one load"


def check_cpu_blocks(evidence: Evidence) -> Iterator[Finding]:
    """The number of CPU blocks follows from the swap space."""
    size = _block_bytes(evidence)
    if size and not evidence.is_parallel and (intervals := intervals_of(evidence, "swap_bytes")):
        middle = (intervals[0].low + intervals[0].high) / 2  # an exact number of GiB, not a rounded one
        blocks = (middle + 0.5) // size[0].high
        formula = f"num_cpu_blocks = ⌊swap / block⌋, block {size[0].high / 1024:.1f} KiB {size[1]}"
        yield from compare(evidence, "num_cpu_blocks", Interval(blocks, blocks), formula, WRONG_MODEL)


def check_concurrency(evidence: Evidence) -> Iterator[Finding]:
    """How many requests of full length the blocks hold."""
    if intervals := intervals_of(evidence, "num_gpu_blocks", "max_model_len"):
        blocks, length = intervals
        if length.low <= 0:
            return  # an invalid length, which other checks report
        ratio = blocks.scaled(BLOCK_TOKENS / length.low)
        formula = f"max_concurrency = num_gpu_blocks × {BLOCK_TOKENS} / max_model_len"
        yield from compare(evidence, "max_concurrency", ratio, formula)


def check_full_request(evidence: Evidence) -> Iterator[Finding]:
    """The KV cache holds at least one request of full length (vllm/worker/worker.py:532-549 at 0.7.2)."""
    blocks, length = evidence.attempt.reading("num_gpu_blocks"), evidence.attempt.reading("max_model_len")
    if blocks is None or length is None:
        return
    needed = -(-int(length.value) // BLOCK_TOKENS)
    yield evidence.finding(
        blocks,
        Check.IDENTITY,
        ok=int(blocks.value) >= needed,
        low=needed,
        why=f"the KV cache must hold one request of {length.show()} tokens",
        remedy="raise gpu_memory_utilization, or lower max_seq_length, max_lora_rank or the number of sequences",
    )


def check_graphs(evidence: Evidence) -> Iterator[Finding]:
    """The batch sizes for which vLLM captures graphs at this number of sequences; none with enforce_eager."""
    reading = evidence.attempt.reading("max_num_seqs")
    if reading is None:
        return
    sizes = capture_sizes(int(reading.value)) if captured_in_log(evidence.attempt) else []
    why = f"vLLM's graph sizes up to {reading.show()} sequences" if sizes else "enforce_eager captures no graph"
    listed = evidence.attempt.reading("graph_sizes")
    if listed is not None:
        wanted = ",".join(str(size) for size in reversed(sizes))
        yield evidence.finding(
            listed, Check.IDENTITY, ok=listed.value == wanted, predicted=wanted, why=why, remedy=EDITED
        )
    for attribute, value in (("num_cuda_graphs", len(sizes)), ("largest_graph", max(sizes, default=0))):
        yield from compare(evidence, attribute, Interval(value, value), why)
    if not sizes:
        yield from compare(evidence, "cuda_graph_bytes", Interval(0, 0), why)


def pinned_unsloth_zoo(attempt: Attempt) -> bool:
    """Whether the log is of the pinned month of unsloth, whose plan is known; its ladder and lengths changed later."""
    reading = attempt.reading("unsloth")
    return reading is not None and str(reading.value).startswith(load_versions().version("unsloth").rsplit(".", 1)[0])


def check_sequences(evidence: Evidence) -> Iterator[Finding]:
    """unsloth's ladder maps the KV estimate to the number of sequences; a retry has its own number."""
    estimate, share = evidence.attempt.reading("kv_estimate_bytes"), evidence.attempt.reading("conservativeness")
    if (
        estimate is None
        or share is None
        or evidence.attempt.formats["retry"]
        or not pinned_unsloth_zoo(evidence.attempt)
    ):
        return
    gib = Interval.of(estimate).scaled(1 / GIB)
    dtype = evidence.attempt.reading("kv_cache_dtype")
    float8 = dtype is not None and number_bytes(str(dtype.value)) == 1
    counts = {num_sequences(max(at, 0.0), float(share.value), float8) for at in (gib.low, gib.high)}
    yield from compare(evidence, "max_num_seqs", Interval(min(counts), max(counts)),
                        "unsloth's ladder of sequences at this KV estimate and conservativeness")  # fmt: skip


def check_lengths(evidence: Evidence) -> Iterator[Finding]:
    """unsloth sets the two to the same value (unsloth_zoo/vllm_utils.py:846-880)."""
    if pinned_unsloth_zoo(evidence.attempt) and (intervals := intervals_of(evidence, "max_model_len")):
        yield from compare(evidence, "chunked_prefill_tokens", intervals[0], "chunked_prefill_tokens = max_model_len")


def check_times(evidence: Evidence) -> Iterator[Finding]:
    """No time is negative, and the engine's start is at least as long as its parts (vllm/engine/llm_engine.py:409-432 at 0.7.2).

    The capture time is printed in whole seconds (vllm/worker/model_runner.py:1562).
    """
    for attribute in ("weights_load_s", "profile_s", "graph_capture_s", "engine_init_s"):
        reading = evidence.attempt.reading(attribute)
        if reading is not None and float(reading.value) < 0:
            yield evidence.finding(reading, Check.IDENTITY, ok=False, low=0.0, why="no time is negative", remedy=EDITED)
    parts = {part: intervals_of(evidence, part) for part in ("profile_s", "graph_capture_s")}
    inside = sum(
        (found[0].low - (0.5 if part == "graph_capture_s" else 0.0) for part, found in parts.items() if found), 0.0
    )
    start = evidence.attempt.reading("engine_init_s")
    if start is not None and inside > 0:
        yield evidence.finding(start, Check.IDENTITY, ok=Interval.of(start).high >= inside, low=round(inside, 2), remedy=EDITED,
                               why="the engine's start includes the memory profile and the graph capture, and takes at least as long")  # fmt: skip


def check_dtype(evidence: Evidence) -> Iterator[Finding]:
    """unsloth uses bfloat16 from compute capability 8.0 on, float16 below (unsloth_zoo/vllm_utils.py:855-865)."""
    reading, capability = evidence.attempt.reading("dtype"), evidence.attempt.reading("compute_capability")
    if reading is None or capability is None:
        return
    wanted = "bfloat16" if float(capability.value) >= 8 else "float16"
    yield evidence.finding(reading, Check.IDENTITY, ok=reading.value == wanted, predicted=wanted,
                           why=f"compute capability {capability.value} computes in {wanted}", remedy=EDITED)  # fmt: skip


def check_attention(evidence: Evidence) -> Iterator[Finding]:
    """A failure for each line about bfloat16 or FlashAttention that contradicts the card's compute capability.

    Both need 8.0 (unsloth/models/_utils.py:279-326 at 2025.2.5, vllm/platforms/cuda.py:178-185 at 0.7.2).
    """
    capability = evidence.attempt.reading("compute_capability")
    if capability is None or not (evidence.strict_stack or pinned_unsloth_zoo(evidence.attempt)):
        return
    supported = float(capability.value) >= FLASH_CAPABILITY
    expected_of = {
        "bfloat16": str(supported).upper(),
        "flash_attention_2": "False" if not supported else None,
        "attention_backend": "XFormers" if not supported else None,
        "no_flash_attention": None if not supported else "Flash Attention",
    }
    for attribute, wanted in expected_of.items():
        reading = evidence.attempt.reading(attribute)
        if reading is not None and wanted is not None and reading.value != wanted:
            yield evidence.finding(reading, Check.IDENTITY, ok=False, predicted=wanted,
                                   why=f"a card of compute capability {capability.value} prints {wanted} here", remedy=EDITED)  # fmt: skip


def check_model(evidence: Evidence) -> Iterator[Finding]:
    """The log shows the named model's family and number of layers."""
    model = evidence.model
    if model is None:
        return
    expectations: list[tuple[str, str | int, Callable[[Reading], bool]]] = [
        ("family", model.family, lambda reading: str(reading.value).lower() == model.family.lower()),
        ("patched_layers", model.num_layers, lambda reading: reading.value == model.num_layers),
    ]
    for attribute, wanted, holds in expectations:
        reading = evidence.attempt.reading(attribute)
        if reading is not None:
            yield evidence.finding(reading, Check.IDENTITY, ok=holds(reading), predicted=wanted,
                                   why=f"{model.name} has {wanted}", remedy=WRONG_MODEL)  # fmt: skip


def check_patched(evidence: Evidence) -> Iterator[Finding]:
    """unsloth patches a group of linears in every layer, or in none and prints why (unsloth/models/llama.py:2529-2603 at 2025.2.5)."""
    attempt = evidence.attempt
    layers = attempt.reading("patched_layers")
    if layers is None:
        return
    num_layers = evidence.model.num_layers if evidence.model is not None else int(layers.value)
    for group in ("qkv", "o", "mlp"):
        reading = attempt.reading(f"patched_{group}")
        if reading is None:
            continue
        none = any(attempt.reading(name) is not None for name in (f"unpatched_{group}", "unpatched_all"))
        wanted = 0 if none or (evidence.profile is not None and reading.value == 0) else num_layers
        why = f"all {num_layers} layers are patched" if wanted else "no layer is patched, with unsloth's reason for it"
        yield evidence.finding(
            reading, Check.IDENTITY, ok=reading.value == wanted, predicted=wanted, why=why, remedy=EDITED
        )


def check_estimate(evidence: Evidence) -> Iterator[Finding]:
    """Without a profile: unsloth's KV estimate belongs to one of the ranks that vLLM accepts, at the printed utilization."""
    reading = evidence.attempt.reading("kv_estimate_bytes")
    if (
        reading is None
        or evidence.config is None
        or evidence.profile is not None
        or not pinned_unsloth_zoo(evidence.attempt)
    ):
        return
    ranks = fitting_ranks(evidence.attempt, evidence.config)
    if ranks is None:
        return
    fits = " or ".join(str(rank) for rank in ranks)
    yield evidence.finding(reading, Check.IDENTITY, ok=bool(ranks),
                           why=f"unsloth's estimate at this utilization with max_lora_rank {fits}" if ranks else
                           f"unsloth's estimate at this utilization differs for every max_lora_rank ({_RANKS})",
                           remedy="" if ranks else EDITED)  # fmt: skip


_RANKS = ", ".join(str(rank) for rank in VLLM_LORA_RANKS)


def fitting_ranks(attempt: Attempt, config: ModelConfig) -> list[int] | None:
    """The values of max_lora_rank that are consistent with the printed KV estimate; None where the log says too little.

    The estimate is the budget minus unsloth's guess of the model's size, adapters included (vllm_utils.py:722-770).
    """
    estimate, share = attempt.reading("kv_estimate_bytes"), attempt.reading("gpu_memory_utilization_pct")
    total = attempt.reading("gpu_total_bytes")
    if estimate is None or share is None or total is None:
        return None
    budget = Interval.of(total) * Interval.of(share).scaled(0.01)
    return [
        rank
        for rank in VLLM_LORA_RANKS
        if Interval.of(estimate).meets(
            Interval(*(kv_estimate(config, wanted_bytes, rank) for wanted_bytes in (budget.low, budget.high)))
        )
    ]


def ranks_in_log(attempt: Attempt, config: ModelConfig) -> tuple[int, ...]:
    """The same for the pinned month of unsloth; empty for another month, or where the log says too little."""
    return tuple(fitting_ranks(attempt, config) or ()) if pinned_unsloth_zoo(attempt) else ()


def check_trainable(evidence: Evidence) -> Iterator[Finding]:
    """Without a profile: the number belongs to some rank, for some of the linears in every layer."""
    reading, config = evidence.attempt.reading("trainable_params"), evidence.config
    if reading is None or config is None or evidence.profile is not None:
        return
    yield evidence.finding(reading, Check.IDENTITY, ok=bool(possible_ranks(config, int(reading.value))),
                           why=f"adapters of some rank on some linears of all {config.num_hidden_layers} layers",
                           remedy=WRONG_MODEL)  # fmt: skip


IDENTITIES: tuple[Identity, ...] = (
    check_budget, check_kv_cache, check_kv_cache_of_0_6_4, check_gpu_blocks, check_cpu_blocks, check_concurrency, check_full_request,
    check_graphs, check_sequences, check_lengths, check_times, check_dtype, check_attention, check_model, check_patched, check_estimate, check_trainable,
)  # fmt: skip
"""In the order in which they are checked."""
