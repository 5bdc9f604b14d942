"""The stack's server: which LoRA ranks vLLM 0.7.2 accepts, and its known vulnerabilities."""

from __future__ import annotations

from functools import cache

from loadcheck.specs.files import env_dir, read_toml
from loadcheck.specs.profile import VLLM_LORA_RANKS as SERVED_RANKS
from loadcheck.stacks.plain_vllm.serving import (
    SERVER,
    Served,
    argv,
    environment,
    evidence_of,
    predict_served,
    served_case,
)

__all__ = [
    "SERVER",
    "Served",
    "argv",
    "environment",
    "evidence_of",
    "known_holes",
    "predict_served",
    "rank_flag",
    "served_case",
    "served_rank",
]

DEFAULT_SERVED_RANK = 16
"""vllm/engine/arg_utils.py:147."""
MAX_SERVED_RANK = SERVED_RANKS[-1]


def served_rank(rank: int) -> int | None:
    """The smallest --max-lora-rank that accepts adapters of this rank; None where there is none."""
    return next((served for served in SERVED_RANKS if served >= rank), None)


def rank_flag(rank: int) -> str | None:
    """The flag that serves adapters of this rank; None where the default accepts them, or no rank does."""
    served = served_rank(rank)
    return f"--max-lora-rank {served}" if served is not None and served > DEFAULT_SERVED_RANK else None


SERVERS = ("vllm", "starlette", "fastapi", "uvicorn")


@cache
def known_holes() -> tuple[tuple[tuple[str, ...], str], ...]:
    """The known vulnerabilities of this server: (their CVEs, what to do or avoid), from env/vex.toml."""
    holes = read_toml(env_dir() / "vex.toml")["hole"]
    affecting = (hole for hole in holes if hole["package"] in SERVERS and hole["status"] == "affected")
    return tuple((tuple(hole["ids"]), hole["action"]) for hole in affecting)
