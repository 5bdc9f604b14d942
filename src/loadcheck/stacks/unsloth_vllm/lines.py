"""The lines that a load by unsloth with vLLM's V0 engine prints, and which of them a complete load must have."""

from __future__ import annotations

from loadcheck.logs import Attempt, Dialect
from loadcheck.specs.profile import Profile
from loadcheck.specs.versions import load_versions, release_of
from loadcheck.stacks.unsloth_vllm import engine_lines, unsloth_lines
from loadcheck.stacks.unsloth_vllm.graphs import captured_in_log

DIALECT = Dialect(
    formats=(*unsloth_lines.FORMATS, *engine_lines.FORMATS),
    endings=engine_lines.ENDINGS,
    leads=(*unsloth_lines.LEADS, *engine_lines.LEADS),
    heads=(*unsloth_lines.HEADS, *engine_lines.HEADS),
)
UNSLOTH_LINES = frozenset(format.name for format in unsloth_lines.FORMATS)
ENGINE_LINES = (
    "engine", "engine model", "engine dtype", "engine quantization",
    "weights", "profile time", "profile budget", "profile weights", "profile non_torch", "profile activation", "profile kv",
    "blocks", "concurrency", "captured", "ready",
)  # fmt: skip
REQUIRED = (
    "banner", "banner transformers", "banner gpu", "banner torch", "banner triton", "banner xformers",
    "plan utilization", "plan capability", "plan sequences", "plan kv",
    *ENGINE_LINES,
)  # fmt: skip
# Always printed by the pinned vLLM, but not by all releases.
PINNED_GRAPH_LINE = "engine graph sizes"
# Missing from a load without CUDA graphs, which logs an empty list of sizes instead.
GRAPH_LINES = {"captured", PINNED_GRAPH_LINE}
# Formats of a required line in other releases. 0.6.4 prints neither the time nor the budget nor the weights of its profile.
ALTERNATIVES = {
    "engine": ("engine", "engine 0.6"),
    "weights": ("weights", "weights 0.8"),
    "profile time": ("profile time", "table time", "profile 0.6.4"),
    "profile budget": ("profile budget", "table budget", "profile 0.6.4"),
    "profile weights": ("profile weights", "profile 0.6.4"),
    "profile non_torch": ("profile non_torch", "profile 0.6.4 non_torch"),
    "profile activation": ("profile activation", "profile 0.6.4 activation"),
    "profile kv": ("profile kv", "table kv", "profile 0.6.4 kv"),
}


def required_lines(attempt: Attempt, profile: Profile | None) -> tuple[str, ...]:
    """All required lines; for a load without vLLM only unsloth's banner, because the rest are our own events.

    A log that has no line of unsloth and does not name its engine may be of vLLM alone, so only the engine's lines are required.
    """
    unknown = profile is None and attempt.reading("engine") is None and not UNSLOTH_LINES.intersection(attempt.formats)
    lines = applicable_lines(ENGINE_LINES if unknown else REQUIRED, attempt)
    without_vllm = profile is not None and not profile.fast_inference
    return tuple(name for name in lines if not without_vllm or name.startswith("banner"))


def applicable_lines(lines: tuple[str, ...], attempt: Attempt) -> tuple[str, ...]:
    """The lines plus the one that the pinned vLLM adds, minus those of CUDA graphs if none are captured."""
    vllm = attempt.reading("vllm")
    pinned = vllm is not None and release_of(str(vllm.value)) == load_versions().version("vllm")
    lines = (*lines, PINNED_GRAPH_LINE) if pinned else lines
    return lines if captured_in_log(attempt) else tuple(name for name in lines if name not in GRAPH_LINES)
