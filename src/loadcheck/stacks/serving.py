"""What the served stack takes of adapters: vLLM 0.7.2's ranks."""

from __future__ import annotations

from loadcheck.specs.profile import VLLM_LORA_RANKS as SERVED_RANKS

DEFAULT_SERVED_RANK = 16
"""vllm/engine/arg_utils.py:147."""
MAX_SERVED_RANK = SERVED_RANKS[-1]


def served_rank(rank: int) -> int | None:
    """The least --max-lora-rank that takes adapters of this rank; None where none does."""
    return next((each for each in SERVED_RANKS if each >= rank), None)


def rank_flag(rank: int) -> str | None:
    """The flag with which adapters of this rank are served; None where the default takes them, or nothing does."""
    served = served_rank(rank)
    return f"--max-lora-rank {served}" if served is not None and served > DEFAULT_SERVED_RANK else None
