"""Why a load by vLLM alone would fail, in the engine's order and words."""

from __future__ import annotations

from collections.abc import Iterator

from loadcheck.predict.account import MemoryAccount, Obstacle
from loadcheck.predict.case import Case
from loadcheck.stacks.plain_vllm.plan import chunks_prefill
from loadcheck.stacks.unsloth_vllm.budget import Budget
from loadcheck.stacks.unsloth_vllm.obstacles import kv_cache_obstacle, peak_obstacle
from loadcheck.stacks.unsloth_vllm.plan import EnginePlan
from loadcheck.stacks.unsloth_vllm.refusals import ENGINE_RULES, FLASH_CAPABILITY, Rule, apply_rules
from loadcheck.units import show_bytes


def obstacles(case: Case, plan: EnginePlan, budget: Budget, account: MemoryAccount) -> Iterator[Obstacle]:
    """In the order in which the engine would hit them."""
    card = case.gpu
    if card.refused is not None:
        remedy = "use a card of compute capability 7.5 to 9.0"
        yield Obstacle(f"{card.name} cannot run this stack: {card.refused}", "no kernel image is available", remedy)
    yield from apply_rules(RULES, case)
    yield from _batch(case, plan)
    slots_bytes = account.sum_bytes(("lora_slots",))
    model, of = budget.weights.num_bytes + slots_bytes, "and the adapters' slots" if slots_bytes else "alone"
    if model + budget.non_torch_bytes > card.free_bytes:
        what = f"the weights {of} take {show_bytes(model)}, and {show_bytes(card.free_bytes)} of the card are free"
        yield Obstacle(what, "CUDA out of memory.", "use a smaller model, or a card with more memory", "profile")
        return
    too_full = account.peak.num_bytes > card.total_bytes
    short = kv_cache_obstacle(plan, budget, too_full)
    if short is not None:
        yield short
    if too_full:
        yield peak_obstacle(card, account.peak, kv_is_short=short is not None)


def model_refusals(case: Case) -> Iterator[Obstacle]:
    """Those that no setting can remove."""
    yield from apply_rules((*ENGINE_RULES, _kept), case)


def _batch(case: Case, plan: EnginePlan) -> Iterator[Obstacle]:
    """vllm/config.py:1563-1578."""
    tokens, length, sequences = plan.num_batched_tokens, plan.max_model_len, plan.max_num_seqs
    if tokens < length and not chunks_prefill(case.profile, case.config):
        yield Obstacle(
            f"a batch of {tokens} tokens holds no request of {length}",
            f"max_num_batched_tokens ({tokens}) is smaller than max_model_len ({length}).",
            f"raise max_num_batched_tokens to {length}, or load with --chunked-prefill on",
            "batch",
        )
    if tokens < sequences:
        yield Obstacle(
            f"a batch of {tokens} tokens is below the number of sequences {sequences}",
            f"max_num_batched_tokens ({tokens}) must be greater than or equal to max_num_seqs ({sequences}).",
            f"raise max_num_batched_tokens to {sequences}, or lower max_num_seqs",
            "batch",
        )


def _too_long(case: Case) -> Obstacle | None:
    """vllm/config.py:2456-2518."""
    config, length = case.config, case.profile.max_seq_length
    derived = config.derived_max_model_len or config.max_position_embeddings
    if length <= derived:
        return None
    return Obstacle(
        f"max_seq_length {length} is above the {derived} tokens that the model takes",
        f"User-specified max_model_len ({length}) is greater than the derived max_model_len",
        f"lower max_seq_length to {derived} or less",
    )


def _bfloat16(case: Case) -> Obstacle | None:
    """vllm/worker/worker.py:509-530; unless another dtype is requested, the checkpoint is assumed to be bfloat16."""
    if case.profile.dtype == "half" or case.gpu.compute_capability >= FLASH_CAPABILITY:
        return None
    return Obstacle(
        f"{case.gpu.name} has no bfloat16, and the checkpoint is assumed to be in bfloat16",
        "Bfloat16 is only supported on GPUs with compute capability of at least 8.0.",
        "load with --dtype half",
    )


def _kept(case: Case) -> Obstacle | None:
    """vllm/model_executor/layers/quantization/bitsandbytes.py:124-142 matches one word of a module's name, not a path."""
    if not case.config.kept_modules:
        return None
    return Obstacle(
        "vLLM alone assumes that every linear of a dynamic quant is in 4 bits",
        "AssertionError",
        "load it with unsloth, or use the plain 4-bit checkpoint",
    )


RULES: tuple[Rule, ...] = (_too_long, _bfloat16, *ENGINE_RULES, _kept)
