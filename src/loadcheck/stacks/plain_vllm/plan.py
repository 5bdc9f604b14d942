"""What vLLM 0.7.2 takes where it is not told: its engine's own defaults."""

from __future__ import annotations

from loadcheck.predict.case import Case
from loadcheck.stacks.unsloth_vllm.graphs import captures_graphs
from loadcheck.stacks.unsloth_vllm.plan import EnginePlan
from loadcheck.units import GIB

MAX_NUM_SEQS = 256
"""vllm/engine/arg_utils.py:215-217."""
LEAST_BATCHED_TOKENS = 2048
"""vllm/config.py:1521-1536: of a batch in parts, and the least of one that is whole."""
LONG_CONTEXT = 32_768
"""Above so many tokens prompts are taken in parts (vllm/engine/arg_utils.py:1112-1137)."""
SWAP_BYTES = 4 * GIB
"""vllm/engine/arg_utils.py:118."""


def plan_of(case: Case) -> EnginePlan:
    """The engine's settings; the utilization is of the whole card, and no estimate is made of anything."""
    profile, length = case.profile, case.profile.max_seq_length
    least = LEAST_BATCHED_TOKENS if prefills_in_parts(case) else max(length, LEAST_BATCHED_TOKENS)
    return EnginePlan(
        utilization=profile.gpu_memory_utilization,
        kv_estimate_bytes=None,
        max_model_len=length,
        max_num_seqs=profile.max_num_seqs or MAX_NUM_SEQS,
        swap_bytes=SWAP_BYTES,
        batched_tokens=profile.max_num_batched_tokens or least,
        captures_graphs=captures_graphs(profile),
    )


def prefills_in_parts(case: Case) -> bool:
    """Whether a long prompt is taken in parts (vllm/engine/arg_utils.py:1103-1139)."""
    if case.profile.chunked_prefill != "default":
        return case.profile.chunked_prefill == "on"
    return case.profile.max_seq_length > LONG_CONTEXT and not case.config.sliding_window
