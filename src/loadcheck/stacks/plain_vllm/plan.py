"""vLLM 0.7.2's own defaults for settings that are not given."""

from __future__ import annotations

from loadcheck.predict.case import Case
from loadcheck.specs.profile import Profile
from loadcheck.specs.shape import ModelConfig
from loadcheck.stacks.unsloth_vllm.graphs import captures_graphs
from loadcheck.stacks.unsloth_vllm.plan import EnginePlan
from loadcheck.units import GIB

MAX_NUM_SEQS = 256
"""vllm/engine/arg_utils.py:215-217."""
LEAST_BATCHED_TOKENS = 2048
"""vllm/config.py:1521-1536: the default of a chunked batch, and the minimum of one that is not."""
LONG_CONTEXT = 32_768
"""Longer contexts are prefilled in chunks by default (vllm/engine/arg_utils.py:1112-1137)."""
SWAP_BYTES = 4 * GIB
"""vllm/engine/arg_utils.py:118."""


def plan_of(case: Case) -> EnginePlan:
    """The engine's settings. The utilization applies to the whole card, and nothing is estimated."""
    profile, length = case.profile, case.profile.max_seq_length
    least = LEAST_BATCHED_TOKENS if chunks_prefill(case.profile, case.config) else max(length, LEAST_BATCHED_TOKENS)
    return EnginePlan(
        utilization=profile.gpu_memory_utilization,
        kv_estimate_bytes=None,
        max_model_len=length,
        max_num_seqs=profile.max_num_seqs or MAX_NUM_SEQS,
        swap_bytes=SWAP_BYTES,
        batched_tokens=profile.max_num_batched_tokens or least,
        captures_graphs=captures_graphs(profile),
    )


def chunks_prefill(profile: Profile, config: ModelConfig) -> bool:
    """Whether long prompts are prefilled in chunks (vllm/engine/arg_utils.py:1103-1139)."""
    if profile.chunked_prefill != "default":
        return profile.chunked_prefill == "on"
    return profile.max_seq_length > LONG_CONTEXT and not config.sliding_window
