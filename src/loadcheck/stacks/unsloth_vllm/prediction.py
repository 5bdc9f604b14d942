"""Putting the parts together: one load's figures, its terms, and whether it fits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from loadcheck.figures import Figures
from loadcheck.predict.account import MemoryAccount, Obstacle, Prediction
from loadcheck.predict.card import MIN_CAPABILITY, Card
from loadcheck.predict.case import Case
from loadcheck.predict.terms import Term, total
from loadcheck.specs.files import changed
from loadcheck.specs.model import ModelConfig
from loadcheck.specs.profile import Profile
from loadcheck.stacks.unsloth_vllm.activation import (
    activation_peak,
    cublas_workspace,
    forward_peak,
    lora_pointers,
    sampler_peak,
)
from loadcheck.stacks.unsloth_vllm.adapters import adapter_memory, adapter_params, base_params, patched
from loadcheck.stacks.unsloth_vllm.graphs import NO_GRAPHS, capture_sizes, graph_memory
from loadcheck.stacks.unsloth_vllm.kv import BLOCK_TOKENS, config_block_bytes, kv_cache_memory
from loadcheck.stacks.unsloth_vllm.outside_budget import adapter_extras, engine_extras, training_memory
from loadcheck.stacks.unsloth_vllm.plan import (
    SEQUENCES_BEYOND,
    SEQUENCES_LADDER,
    UnslothPlan,
    largest_budget_bytes,
    unsloth_plan,
)
from loadcheck.stacks.unsloth_vllm.refusals import known_warnings, refusals
from loadcheck.stacks.unsloth_vllm.slots import lora_slots, slots_only
from loadcheck.stacks.unsloth_vllm.weights import weights
from loadcheck.units import show_bytes, to_gib

TRAINING_TOKENS = 1024
"""Tokens of the batch that training headroom is stated for: up to so many, unsloth keeps the logits."""


EDGE_SHARE = 0.05
"""A KV estimate this near to a bound of unsloth's ladder is named."""


def predict(case: Case) -> Prediction:
    """The load of `case` as this stack does it, from unsloth's own plan on."""
    return predict_from_plan(case, plan_of(case))


def plan_of(case: Case) -> UnslothPlan:
    """What unsloth will decide before vLLM starts."""
    card, profile = case.gpu, case.profile
    assert case.ram_available_bytes is not None, "the swap space depends on the host's RAM"
    return unsloth_plan(
        case.config,
        total_bytes=card.total_bytes,
        free_bytes=card.free_bytes,
        max_seq_length=profile.max_seq_length,
        max_lora_rank=profile.max_lora_rank,
        gpu_memory_utilization=profile.gpu_memory_utilization,
        conservativeness=profile.conservativeness,
        ram_available_bytes=case.ram_available_bytes,
    )


def predict_from_plan(case: Case, plan: UnslothPlan) -> Prediction:
    """What follows once unsloth's plan is known: from its formula, or from a log that prints it."""
    budget = _Budget.of(case.config, case.gpu, plan)
    peak = _peak(case, plan, budget)
    account = MemoryAccount(peak, _full_batch(case, peak, budget))
    found = tuple(obstacles(case, plan, budget, account))
    figures = _engine_figures(case.config, case.gpu, plan, case.profile.enforce_eager, budget)
    return Prediction(
        figures=replace(figures, **_outside_figures(case, peak)),
        account=account,
        obstacles=found,
        notes=tuple(_notes(case.gpu)),
        edges=tuple(edges(plan)),
        warnings=() if found else tuple(_warnings(case.gpu, plan, account.full_batch)),
    )


@dataclass(frozen=True, slots=True)
class _Budget:
    """vLLM's budget, and what it must hold (vllm/worker/worker.py:226-249)."""

    weights: Term
    activation: Term
    non_torch_bytes: int
    total_bytes: int
    kv_available_bytes: int
    num_gpu_blocks: int

    @property
    def fixed_bytes(self) -> int:
        """What the budget must hold before any KV cache."""
        return self.weights.num_bytes + self.activation.num_bytes + self.non_torch_bytes

    @classmethod
    def of(cls, config: ModelConfig, card: Card, plan: UnslothPlan) -> _Budget:
        model = weights(config)
        activation = activation_peak(config, plan.max_model_len, max(plan.max_num_seqs, 1), card.compute_capability)
        non_torch = card.assumed_non_torch_bytes
        budget = card.total_bytes * plan.utilization  # floats until the last step, as upstream
        available = budget - (model.num_bytes + activation.num_bytes + non_torch)
        blocks = max(int(available // config_block_bytes(config)), 0)
        return cls(model, activation, non_torch, int(budget), int(available), blocks)


def _peak(case: Case, plan: UnslothPlan, budget: _Budget) -> Term:
    """What the card holds once everything is there: more than vLLM's budget, as slots, graphs and adapters lie outside it."""
    config, profile, card = case.config, case.profile, case.gpu
    num_seqs = max(plan.max_num_seqs, 1)
    capability, adapters = card.compute_capability, profile.adapters
    terms = [
        Term("context", card.total_bytes - card.free_bytes, "used before the load: CUDA's own, and other processes"),
        Term("non_torch", budget.non_torch_bytes, "vllm/worker/worker.py:205-271; env/gpus.toml"),
        budget.weights,
        lora_slots(config, profile.max_lora_rank, plan.max_model_len, num_seqs),
        kv_cache_memory(config, budget.num_gpu_blocks),
        _graphs(config, card, num_seqs, profile.enforce_eager),
        engine_extras(config, plan.max_model_len, num_seqs, capability, profile.enforce_eager),
    ]
    if adapters is not None:
        adapter = adapter_memory(config, adapters.r, adapters.target_modules)
        terms += [
            adapter,
            Term(
                "adapter, 16-bit copy for vLLM",
                adapter.num_bytes // 2,
                "vllm/lora/request.py: the adapters as tensors, in 16 bit",
            ),
        ]
        terms.append(adapter_extras(config, profile.max_seq_length))
    if profile.training.steps:
        terms.append(training_memory(config, profile, TRAINING_TOKENS, capability))
    return total("peak_device", terms)


def _full_batch(case: Case, peak: Term, budget: _Budget) -> Term:
    """What the card holds while vLLM works on a full batch: all that stays after the load, and the whole activation peak.

    vLLM's profile run is such a batch (max_num_seqs prompts that share max_num_batched_tokens), and its budget keeps that peak free
    for when there is one (vllm/worker/worker.py:205-271). Slots, graphs, adapters and what unsloth keeps lie on top of the budget. The
    load's one short answer takes next to nothing of it, so `peak` has none. Two amounts both sides count, and the card holds once:
    cuBLAS's workspace and LoRA's pointers stay from the profile run on. Training is left out: the engine idles while it runs.
    Derived from there; no run of ours has filled a batch yet.
    """
    once = cublas_workspace(case.gpu.compute_capability).num_bytes + lora_pointers(case.config).num_bytes
    stays = [part for part in peak.parts if part.name != "training"]
    batch = Term(
        "full batch", budget.activation.num_bytes - once, f"vllm/worker/worker.py:205-271; {budget.activation.name}"
    )
    return total("full_batch_device", [*stays, batch])


def _graphs(config: ModelConfig, card: Card, num_seqs: int, enforce_eager: bool) -> Term:
    if enforce_eager:
        return NO_GRAPHS
    return graph_memory(config, num_seqs, card.compute_capability, card.graph_node_bytes)


def engine_figures(config: ModelConfig, card: Card, plan: UnslothPlan, enforce_eager: bool) -> Figures:
    """The figures that follow from the model, the card and unsloth's plan alone, whatever adapters there are."""
    return _engine_figures(config, card, plan, enforce_eager, _Budget.of(config, card, plan))


def _engine_figures(
    config: ModelConfig, card: Card, plan: UnslothPlan, enforce_eager: bool, budget: _Budget
) -> Figures:
    num_seqs = max(plan.max_num_seqs, 1)
    return Figures(
        gpu_name=card.name,
        gpu_total_bytes=card.total_bytes,
        compute_capability=str(card.compute_capability),
        dtype="bfloat16" if card.compute_capability >= 8 else "float16",
        quantization=config.quantization,
        max_model_len=plan.max_model_len,
        gpu_memory_utilization_pct=100 * plan.utilization,
        chunked_prefill_tokens=plan.max_model_len,
        max_num_seqs=plan.max_num_seqs,
        kv_estimate_bytes=int(plan.kv_estimate_bytes),
        swap_bytes=plan.swap_bytes,
        weights_bytes=budget.weights.num_bytes,
        budget_bytes=budget.total_bytes,
        non_torch_bytes=card.non_torch_bytes,
        activation_peak_bytes=budget.activation.num_bytes,
        kv_cache_bytes=budget.kv_available_bytes,
        num_gpu_blocks=budget.num_gpu_blocks,
        num_cpu_blocks=plan.swap_bytes // config_block_bytes(config),
        max_concurrency=budget.num_gpu_blocks * BLOCK_TOKENS / plan.max_model_len,
        num_cuda_graphs=0 if enforce_eager else len(capture_sizes(num_seqs)),
        cuda_graph_bytes=_graphs(config, card, num_seqs, enforce_eager).num_bytes,
    )


def _outside_figures(case: Case, peak: Term) -> dict[str, Any]:
    """Of slots, peak and adapters, which no line of the engine's states."""
    config, adapters = case.config, case.profile.adapters
    outside = {
        "lora_slots_bytes": slots_only(config, case.profile.max_lora_rank),
        "peak_device_bytes": peak.num_bytes,
    }
    if adapters is None:
        return outside
    params = adapter_params(config, adapters.r, adapters.target_modules)
    return {
        **outside,
        **patched(config, adapters.target_modules, adapters.lora_dropout),
        "trainable_params": params,
        "total_params": base_params(config) + params,
        "adapter_bytes": adapter_memory(config, adapters.r, adapters.target_modules).num_bytes,
    }


def obstacles(case: Case, plan: UnslothPlan, budget: _Budget, account: MemoryAccount) -> Iterator[Obstacle]:
    """What will keep the load from succeeding, in the order in which the engine would meet it."""
    card, profile = case.gpu, case.profile
    if card.refused is not None:
        says = (
            "Unsloth: Your GPU is too old!"
            if card.compute_capability < MIN_CAPABILITY
            else "no kernel image is available"
        )
        yield Obstacle(
            f"{card.name} cannot run this stack: {card.refused}", says, "take a card of compute capability 7.5 to 9.0"
        )
    yield from refusals(case)
    cause = _too_large(case, plan, budget, account)
    too_full = account.peak.num_bytes > card.total_bytes
    if plan.cut_from is not None and cause is None:
        yield _cut(plan, too_full)
    yield from _sequences_obstacles(profile, plan)
    if cause is not None:  # what else is short is short for that
        yield cause
        return
    no_cache = _no_cache(plan, budget, too_full)
    if no_cache is not None:
        yield no_cache
    if too_full:
        yield _peak_obstacle(card, account.peak, kv_is_short=no_cache is not None or plan.cut_from is not None)


def _sequences_obstacles(profile: Profile, plan: UnslothPlan) -> Iterator[Obstacle]:
    """Too many sequences for the batch, or none."""
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


# --------------------------------------------------------------------------------------- more than any utilization can give


def _too_large(case: Case, plan: UnslothPlan, budget: _Budget, account: MemoryAccount) -> Obstacle | None:
    """The one cause where no gpu_memory_utilization helps: the weights, the profile run, or what unsloth keeps for training."""
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
            f"unsloth keeps {kept} of the card for training on max_seq_length {profile.max_seq_length}: {left} is left for vLLM, "
            f"whose weights and full batch take {show_bytes(budget.fixed_bytes)}",
            _NO_BLOCKS,
            "lower max_seq_length; `loadcheck fit` finds the longest that fits",
            "kv_cache",
        )
    return None


_NO_BLOCKS = (
    "No available memory for the cache blocks. Try increasing `gpu_memory_utilization` when initializing the engine."
)


def _fix_weights(config: ModelConfig, card: Card, budget: _Budget) -> str:
    """The nearest that would hold the weights; KV cache and the rest come on top."""
    if config.quantization == "16bit":
        quantized = weights(changed(config, {"quantization": "nf4"})).num_bytes
        if quantized + budget.non_torch_bytes < card.free_bytes:
            return f"load in 4-bit, which takes {show_bytes(quantized)}"
    used = card.total_bytes - card.free_bytes
    if budget.fixed_bytes < card.total_bytes:
        return f"free the card: {show_bytes(used)} of it are in use"
    return "take a smaller model, or a card with more memory"


def _fix_batch(config: ModelConfig, card: Card, plan: UnslothPlan) -> str:
    """What makes the profile run smaller: fewer sequences where the sampler is its peak, else fewer tokens."""
    sampler = sampler_peak(config, plan.max_model_len, max(plan.max_num_seqs, 1), card.compute_capability)
    forward = forward_peak(config, plan.max_model_len, card.compute_capability)
    lower = "conservativeness" if sampler.num_bytes > forward.num_bytes else "max_seq_length"
    return f"lower {lower} or max_lora_rank, or free the card: {show_bytes(card.total_bytes - card.free_bytes)} of it are in use"


# ------------------------------------------------------------------------------------ where settings can give and take room

_LESS = "lower max_seq_length, conservativeness or max_lora_rank: no gpu_memory_utilization is right for both KV cache and peak"


def _cut(plan: UnslothPlan, too_full: bool) -> Obstacle:
    remedy = "raise gpu_memory_utilization, or lower max_seq_length or max_lora_rank"
    if not plan.kv_estimate_bytes:  # by its estimate not even the model has room
        remedy = "raise gpu_memory_utilization"
    return Obstacle(
        f"unsloth will cut max_seq_length from {plan.cut_from} to {plan.max_model_len}: its estimate leaves no more room",
        f"Unsloth: Your GPU cannot handle sequence lengths of {plan.cut_printed} due to limited GPU memory.",
        _LESS if too_full else remedy,
        "kv_estimate",
    )


def _no_cache(plan: UnslothPlan, budget: _Budget, too_full: bool) -> Obstacle | None:
    """vllm/worker/worker.py:532-549."""
    tokens = budget.num_gpu_blocks * BLOCK_TOKENS
    remedy = "raise gpu_memory_utilization, or lower max_seq_length or the number of sequences (conservativeness)"
    if budget.weights.num_bytes > budget.total_bytes:
        remedy = "raise gpu_memory_utilization: the budget does not even hold the weights"
    if too_full:
        remedy = _LESS
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


def _peak_obstacle(card: Card, peak: Term, kv_is_short: bool) -> Obstacle:
    remedy = "lower gpu_memory_utilization: LoRA slots, CUDA graphs and adapters lie outside vLLM's budget"
    return Obstacle(
        f"the load peaks at {show_bytes(peak.num_bytes)}, and the card has {show_bytes(card.total_bytes)}",
        "CUDA out of memory.",
        _LESS if kv_is_short else remedy,
        "peak",
    )


def _warnings(card: Card, plan: UnslothPlan, full_batch: Term) -> Iterator[str]:
    """A load that fits answers once; the same settings may not hold the batch that they allow, or the card not all that comes."""
    yield from known_warnings(card)
    if full_batch.num_bytes > card.total_bytes:
        yield (
            f"the load fits, but {plan.max_num_seqs} requests at once would take up to {show_bytes(full_batch.num_bytes)} of the card's "
            f"{show_bytes(card.total_bytes)} and run out of memory; lower gpu_memory_utilization or conservativeness, or see "
            "`loadcheck fit`"
        )


def _notes(card: Card) -> Iterator[str]:
    if card.non_torch_bytes is None:
        yield (
            f"non_torch was never measured on {card.name}; {show_bytes(card.assumed_non_torch_bytes)} are assumed, "
            "as on others of its architecture, so kv_cache_gib may be off by 0.05 GiB"
        )
    if card.graph_node_bytes is None:
        yield f"CUDA graphs were never measured on {card.name}; cuda_graph_gib is an estimate from other cards"


def edges(plan: UnslothPlan) -> Iterator[str]:
    """The bound of unsloth's ladder that its KV estimate is near to: a little more or less free memory is another load."""
    estimate_gib = to_gib(plan.kv_estimate_bytes)
    for (bound, below), (_, above) in pairwise((*SEQUENCES_LADDER, (0, SEQUENCES_BEYOND))):
        if abs(estimate_gib - bound) <= EDGE_SHARE * bound:
            yield (
                f"unsloth's KV estimate is {estimate_gib:.2f} GiB: up to {bound} GiB it runs {below} sequences, above it {above}; "
                "a little more or less free memory is another load"
            )
