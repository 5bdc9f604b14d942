"""Why a load would fail, in the engine's order and words, and the remedies."""

from __future__ import annotations

from collections.abc import Iterator

from loadcheck.predict.account import MemoryAccount, Obstacle
from loadcheck.predict.card import MIN_CAPABILITY, Card
from loadcheck.predict.case import Case
from loadcheck.predict.terms import Term
from loadcheck.specs.files import changed
from loadcheck.specs.profile import Profile
from loadcheck.specs.shape import ModelConfig
from loadcheck.stacks.unsloth_vllm.activation import forward_peak, sampler_peak
from loadcheck.stacks.unsloth_vllm.budget import Budget
from loadcheck.stacks.unsloth_vllm.kv import BLOCK_TOKENS
from loadcheck.stacks.unsloth_vllm.plan import EnginePlan, largest_budget_bytes
from loadcheck.stacks.unsloth_vllm.refusals import refusals
from loadcheck.stacks.unsloth_vllm.weights import weights
from loadcheck.units import show_bytes


def obstacles(case: Case, plan: EnginePlan, budget: Budget, account: MemoryAccount) -> Iterator[Obstacle]:
    """The reasons why the load would fail, in the order in which the engine would hit them."""
    card, profile = case.gpu, case.profile
    if card.refused is not None:
        message = (
            "Unsloth: Your GPU is too old!"
            if card.compute_capability < MIN_CAPABILITY
            else "no kernel image is available"
        )
        yield Obstacle(
            f"{card.name} cannot run this stack: {card.refused}",
            message,
            "use a card of compute capability 7.5 to 9.0",
        )
    yield from refusals(case)
    cause = _too_large(case, plan, budget, account)
    too_full = account.peak.num_bytes > card.total_bytes
    if plan.cut_from is not None and cause is None:
        yield _length_cut(plan, too_full)
    yield from _sequences_obstacles(profile, plan)
    if cause is not None:  # any other shortage follows from this one
        yield cause
        return
    no_cache = kv_cache_obstacle(plan, budget, too_full)
    if no_cache is not None:
        yield no_cache
    if too_full:
        yield peak_obstacle(card, account.peak, kv_is_short=no_cache is not None or plan.cut_from is not None)


def _sequences_obstacles(profile: Profile, plan: EnginePlan) -> Iterator[Obstacle]:
    """More sequences than the batch has tokens, or none."""
    if plan.max_model_len < plan.max_num_seqs:
        yield Obstacle(  # vllm/config.py:1574-1578
            f"max_seq_length {plan.max_model_len} is below the number of sequences {plan.max_num_seqs}",
            f"max_num_batched_tokens ({plan.max_model_len}) must be greater than or equal to max_num_seqs ({plan.max_num_seqs}).",
            f"raise max_seq_length to {plan.max_num_seqs}, or lower conservativeness",
            "batch",
        )
    if plan.max_num_seqs < 1:
        yield Obstacle(
            f"conservativeness {profile.conservativeness} leaves no sequence at all",
            "max_num_seqs must be positive",
            "raise conservativeness",
        )


# ------------------------------------------------------------------------------- more memory than any utilization can provide


def _too_large(case: Case, plan: EnginePlan, budget: Budget, account: MemoryAccount) -> Obstacle | None:
    """The cause where no gpu_memory_utilization helps: the weights, the profile run, or what unsloth reserves for training."""
    config, profile, card = case.config, case.profile, case.gpu
    model, free = budget.weights.num_bytes, card.free_bytes
    if model + budget.non_torch_bytes > free:
        return Obstacle(
            f"the weights alone take {show_bytes(model)}, and {show_bytes(free)} of the card are free",
            "CUDA out of memory.",
            _fix_weights(config, card, budget),
            "profile",
        )
    slots = account.sum_bytes(("lora_slots",))
    if budget.fixed_bytes + slots > free:
        return Obstacle(
            f"weights, LoRA slots and a full batch take {show_bytes(budget.fixed_bytes + slots)}, and {show_bytes(free)} of the "
            "card are free",
            "CUDA out of memory.",
            _fix_batch(config, card, plan),
            "profile",
        )
    most = largest_budget_bytes(config, card.total_bytes, free, profile.max_seq_length)
    if budget.num_gpu_blocks <= 0 and most < budget.fixed_bytes:
        kept, left = show_bytes(card.total_bytes - most), show_bytes(most) if most else "nothing"
        if not most:
            kept = f"all {kept}"
        return Obstacle(
            f"unsloth reserves {kept} of the card for training on max_seq_length {profile.max_seq_length}: {left} is left for vLLM, "
            f"whose weights and full batch take {show_bytes(budget.fixed_bytes)}",
            _NO_BLOCKS,
            "lower max_seq_length; `loadcheck fit` finds the longest that fits",
            "kv_cache",
        )
    return None


_NO_BLOCKS = (
    "No available memory for the cache blocks. Try increasing `gpu_memory_utilization` when initializing the engine."
)


def _fix_weights(config: ModelConfig, card: Card, budget: Budget) -> str:
    """The smallest change that makes room for the weights; KV cache and the rest come on top."""
    if config.quantization == "16bit":
        quantized = weights(changed(config, {"quantization": "nf4"})).num_bytes
        if quantized + budget.non_torch_bytes < card.free_bytes:
            return f"load in 4-bit, which takes {show_bytes(quantized)}"
    used = card.total_bytes - card.free_bytes
    if budget.fixed_bytes < card.total_bytes:
        return f"free the card: {show_bytes(used)} of it are in use"
    return "use a smaller model, or a card with more memory"


def _fix_batch(config: ModelConfig, card: Card, plan: EnginePlan) -> str:
    """What shrinks the profile run: fewer sequences if its peak is in the sampler, else fewer tokens."""
    sampler = sampler_peak(config, plan.max_model_len, max(plan.max_num_seqs, 1), card.compute_capability)
    forward = forward_peak(config, plan.max_model_len, card.compute_capability)
    lower = "conservativeness" if sampler.num_bytes > forward.num_bytes else "max_seq_length"
    return f"lower {lower} or max_lora_rank, or free the card: {show_bytes(card.total_bytes - card.free_bytes)} of it are in use"


# ------------------------------------------------------------------------------------------- where settings can make room

_LOWER_OTHERS = "lower max_seq_length, conservativeness or max_lora_rank: no gpu_memory_utilization is right for both KV cache and peak"


def _length_cut(plan: EnginePlan, too_full: bool) -> Obstacle:
    remedy = "raise gpu_memory_utilization, or lower max_seq_length or max_lora_rank"
    if not plan.kv_estimate_bytes:  # by unsloth's estimate, not even the model fits
        remedy = "raise gpu_memory_utilization"
    return Obstacle(
        f"unsloth will cut max_seq_length from {plan.cut_from} to {plan.max_model_len}: its estimate leaves no more room",
        f"Unsloth: Your GPU cannot handle sequence lengths of {plan.cut_printed} due to limited GPU memory.",
        _LOWER_OTHERS if too_full else remedy,
        "kv_estimate",
    )


def kv_cache_obstacle(plan: EnginePlan, budget: Budget, too_full: bool) -> Obstacle | None:
    """vllm/worker/worker.py:532-549."""
    tokens = budget.num_gpu_blocks * BLOCK_TOKENS
    remedy = "raise gpu_memory_utilization, or lower max_seq_length or the number of sequences (conservativeness)"
    if budget.weights.num_bytes > budget.total_bytes:
        remedy = "raise gpu_memory_utilization: the budget does not even hold the weights"
    if too_full:
        remedy = _LOWER_OTHERS
    if budget.num_gpu_blocks <= 0:
        return Obstacle(
            f"no room for the KV cache: weights, a full batch and non_torch take {show_bytes(budget.fixed_bytes)}, and the "
            f"budget is {show_bytes(budget.total_bytes)}",
            _NO_BLOCKS,
            remedy,
            "kv_cache",
        )
    if tokens < plan.max_model_len:
        return Obstacle(
            f"the KV cache holds {tokens} tokens, fewer than one request of {plan.max_model_len}",
            f"The model's max seq len ({plan.max_model_len}) is larger than the maximum number of tokens that can be stored "
            f"in KV cache ({tokens}). Try increasing `gpu_memory_utilization` or decreasing `max_model_len` when "
            "initializing the engine.",
            remedy,
            "kv_cache",
        )
    return None


def peak_obstacle(card: Card, peak: Term, kv_is_short: bool) -> Obstacle:
    remedy = "lower gpu_memory_utilization: LoRA slots, CUDA graphs and adapters lie outside vLLM's budget"
    return Obstacle(
        f"the load peaks at {show_bytes(peak.num_bytes)}, and the card has {show_bytes(card.total_bytes)}",
        "CUDA out of memory.",
        _LOWER_OTHERS if kv_is_short else remedy,
        "peak",
    )
