"""The prediction of a load, assembled from its parts: its figures, its memory by terms, and whether it fits."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

from loadcheck.figures import Figures
from loadcheck.predict.account import MemoryAccount, Prediction
from loadcheck.predict.card import Card
from loadcheck.predict.case import Case
from loadcheck.predict.terms import Term, total
from loadcheck.specs.shape import ModelConfig
from loadcheck.stacks.unsloth_vllm.activation import (
    cublas_workspace,
    lora_pointers,
)
from loadcheck.stacks.unsloth_vllm.adapters import adapter_figures, adapter_memory
from loadcheck.stacks.unsloth_vllm.allocator import cached
from loadcheck.stacks.unsloth_vllm.batch import sampled_batch
from loadcheck.stacks.unsloth_vllm.budget import Budget
from loadcheck.stacks.unsloth_vllm.graphs import NO_GRAPHS, captures_graphs, graph_memory
from loadcheck.stacks.unsloth_vllm.kv import BLOCK_TOKENS, config_block_bytes, kv_cache_memory
from loadcheck.stacks.unsloth_vllm.obstacles import obstacles
from loadcheck.stacks.unsloth_vllm.outside_budget import adapter_extras, engine_extras, training_memory
from loadcheck.stacks.unsloth_vllm.plan import (
    SEQUENCES_BEYOND,
    SEQUENCES_LADDER,
    EnginePlan,
    swap_space_bytes,
    unsloth_plan,
)
from loadcheck.stacks.unsloth_vllm.refusals import found_on_disk, known_warnings
from loadcheck.stacks.unsloth_vllm.slots import lora_slots, slots_only
from loadcheck.units import show_bytes, to_gib

TRAINING_TOKENS = 1024
"""The batch size, in tokens, that training headroom is stated for; up to this many unsloth keeps the logits."""


EDGE_SHARE = 0.05
"""A KV estimate this close to a bound of unsloth's ladder is reported."""


def predict(case: Case) -> Prediction:
    """Predict a load by this stack, beginning with unsloth's own plan."""
    return _predict(case, found_on_disk(case))


@cached(maxsize=1024)
def _predict(case: Case, _found: Hashable) -> Prediction:
    """Cached, as bisections meet the same settings again. A local model's directory may change between two predictions, so it is part of the key."""
    return predict_from_plan(case, plan_of(case))


def plan_of(case: Case, swap_bytes: int | None = None) -> EnginePlan:
    """What unsloth will decide before vLLM starts. Without `swap_bytes`, the host's RAM determines the swap space."""
    card, profile = case.gpu, case.profile
    if swap_bytes is None:
        assert case.ram_available_bytes is not None, "the swap space depends on the host's RAM"
        swap_bytes = swap_space_bytes(case.ram_available_bytes)
    plan = unsloth_plan(
        case.config,
        total_bytes=card.total_bytes,
        free_bytes=card.free_bytes,
        max_seq_length=profile.max_seq_length,
        max_lora_rank=profile.max_lora_rank,
        gpu_memory_utilization=profile.gpu_memory_utilization,
        conservativeness=profile.conservativeness,
        swap_bytes=swap_bytes,
    )
    return replace(plan, captures_graphs=captures_graphs(profile))


def predict_from_plan(case: Case, plan: EnginePlan) -> Prediction:
    """Predict what follows from unsloth's plan, which comes from its formula, or from a log that prints it."""
    budget = Budget.of(case.config, case.gpu, plan)
    peak = _peak(case, plan, budget)
    account = MemoryAccount(peak, full_batch(case, plan, peak), sorted_batch(case, peak, budget))
    found = tuple(obstacles(case, plan, budget, account))
    return Prediction(
        figures=figures_of(case.config, case.gpu, plan, budget, **_outside_figures(case, peak)),
        account=account,
        obstacles=found,
        notes=tuple(notes_on(case.gpu)),
        edges=tuple(edges(plan)),
        warnings=() if found else tuple(warnings_of(case.gpu, plan, account.largest_bytes)),
    )


def _peak(case: Case, plan: EnginePlan, budget: Budget) -> Term:
    """The device memory after the load: more than vLLM's budget, because LoRA slots, graphs and adapters are outside it."""
    config, profile, card = case.config, case.profile, case.gpu
    num_seqs = max(plan.max_num_seqs, 1)
    capability, adapters = card.compute_capability, profile.adapters
    terms = [
        Term("context", card.total_bytes - card.free_bytes, "used before the load: CUDA's own, and other processes"),
        Term("non_torch", budget.non_torch_bytes, "vllm/worker/worker.py:205-271; env/gpus.toml"),
        budget.weights,
        lora_slots(config, profile.max_lora_rank, plan.max_model_len, num_seqs),
        kv_cache_memory(config, budget.num_gpu_blocks),
        graphs_of(config, card, plan),
        engine_extras(config, plan.max_model_len, num_seqs, capability, plan.captures_graphs),
    ]
    if adapters is not None:
        adapter = adapter_memory(config, adapters)
        terms += [
            adapter,
            Term(
                "adapter, 16-bit copy for vLLM",
                adapter.num_bytes // 2,
                "unsloth_zoo/vllm_lora_request.py: lora_tensors; seen in tests/runs/h100",
            ),
        ]
        terms.append(adapter_extras(config, profile.max_seq_length))
    if profile.training.steps:
        terms.append(training_memory(config, profile, TRAINING_TOKENS, capability))
    return total("peak_device", terms)


def full_batch(case: Case, plan: EnginePlan, peak: Term) -> Term:
    """The device memory while vLLM runs a full batch that samples by temperature alone."""
    tokens, sequences = plan.num_batched_tokens, max(plan.max_num_seqs, 1)
    batch = sampled_batch(case.config, tokens, sequences, case.gpu.compute_capability)
    return total("full_batch_device", [*_resident(peak), batch])


def _resident(peak: Term) -> list[Term]:
    """The part of a load's peak that stays between answers; the engine is idle during training."""
    return [part for part in peak.parts if part.name != "training"]


def sorted_batch(case: Case, peak: Term, budget: Budget) -> Term:
    """The same with the logits sorted for top-k or top-p: the maximum that these settings can use.

    vLLM's profile run is such a batch (max_num_seqs prompts that share max_num_batched_tokens), and its budget reserves that peak
    (vllm/worker/worker.py:205-271). LoRA slots, graphs, adapters and unsloth's own buffers come on top of the budget. The load's one
    short answer uses hardly any of it, so `peak` contains none. cuBLAS's workspace and LoRA's pointers persist after the profile run
    and are in both sums, so they are subtracted once. Derived from that code; no sorted batch was measured.
    """
    once = cublas_workspace(case.gpu.compute_capability).num_bytes + lora_pointers(case.config).num_bytes
    source = f"vllm/worker/worker.py:205-271; {budget.activation.name}"
    return total(
        "sorted_batch_device", [*_resident(peak), Term("sorted batch", budget.activation.num_bytes - once, source)]
    )


def graphs_of(config: ModelConfig, card: Card, plan: EnginePlan) -> Term:
    if not plan.captures_graphs:
        return NO_GRAPHS
    return graph_memory(config, max(plan.max_num_seqs, 1), card.compute_capability, card.graph_node_bytes)


def engine_figures(config: ModelConfig, card: Card, plan: EnginePlan) -> Figures:
    """The figures that follow from the model, the card and unsloth's plan, independent of adapters."""
    return figures_of(config, card, plan, Budget.of(config, card, plan))


def figures_of(config: ModelConfig, card: Card, plan: EnginePlan, budget: Budget, **outside: Any) -> Figures:
    """The same for a known budget, with the figures `outside` it."""
    return Figures(
        **outside,
        gpu_name=card.name,
        gpu_total_bytes=card.total_bytes,
        compute_capability=str(card.compute_capability),
        dtype="bfloat16" if card.compute_capability >= 8 else "float16",
        quantization=config.quantization,
        max_model_len=plan.max_model_len,
        gpu_memory_utilization_pct=100 * plan.utilization,
        chunked_prefill_tokens=plan.num_batched_tokens,
        max_num_seqs=plan.max_num_seqs,
        kv_estimate_bytes=None if plan.kv_estimate_bytes is None else int(plan.kv_estimate_bytes),
        swap_bytes=plan.swap_bytes,
        weights_bytes=budget.weights.num_bytes,
        budget_bytes=budget.total_bytes,
        non_torch_bytes=card.non_torch_bytes,
        activation_peak_bytes=budget.activation.num_bytes,
        kv_cache_bytes=budget.kv_available_bytes,
        num_gpu_blocks=budget.num_gpu_blocks,
        num_cpu_blocks=plan.swap_bytes // config_block_bytes(config),
        max_concurrency=budget.num_gpu_blocks * BLOCK_TOKENS / plan.max_model_len,
        num_cuda_graphs=len(plan.graph_sizes),
        cuda_graph_bytes=graphs_of(config, card, plan).num_bytes,
    )


def _outside_figures(case: Case, peak: Term) -> dict[str, Any]:
    """The figures of slots, peak and adapters, which the engine does not print."""
    config, adapters = case.config, case.profile.adapters
    outside = {
        "lora_slots_bytes": slots_only(config, case.profile.max_lora_rank),
        "peak_device_bytes": peak.num_bytes,
    }
    return outside if adapters is None else outside | adapter_figures(config, adapters)


def warnings_of(card: Card, plan: EnginePlan, largest_bytes: int) -> Iterator[str]:
    """Why a load that fits may still fail later: at a full batch that its settings allow, or for a known fault of the card."""
    yield from known_warnings(card)
    if largest_bytes > card.total_bytes:
        yield (
            f"the load fits, but {plan.max_num_seqs} requests at once would take up to {show_bytes(largest_bytes)} of the card's "
            f"{show_bytes(card.total_bytes)} and run out of memory; lower gpu_memory_utilization or conservativeness, or see "
            "`loadcheck fit`"
        )


def notes_on(card: Card) -> Iterator[str]:
    if card.non_torch_bytes is None:
        yield (
            f"non_torch was never measured on {card.name}; {show_bytes(card.assumed_non_torch_bytes)} are assumed, "
            "as on others of its architecture, so kv_cache_gib may be off by 0.05 GiB"
        )
    if card.graph_node_bytes is None:
        yield f"CUDA graphs were never measured on {card.name}; cuda_graph_gib is an estimate from other cards"


def edges(plan: EnginePlan) -> Iterator[str]:
    """The bound of unsloth's ladder that its KV estimate is close to: a little more or less free memory changes the load."""
    if plan.kv_estimate_bytes is None:
        return
    estimate_gib = to_gib(plan.kv_estimate_bytes)
    for (bound, below), (_, above) in pairwise((*SEQUENCES_LADDER, (0, SEQUENCES_BEYOND))):
        if abs(estimate_gib - bound) <= EDGE_SHARE * bound:
            yield (
                f"unsloth's KV estimate is {estimate_gib:.2f} GiB: up to {bound} GiB it runs {below} sequences, above it {above}; "
                "a little more or less free memory changes the load"
            )
