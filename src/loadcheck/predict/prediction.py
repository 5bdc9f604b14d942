"""Putting the parts together: one load's figures, its terms, and whether it fits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from loadcheck.figures import Figures
from loadcheck.predict.activation import activation_peak, cublas_workspace, forward_peak, lora_pointers, sampler_peak
from loadcheck.predict.adapters import adapter_memory, adapter_params, base_params, patched
from loadcheck.predict.card import MIN_CAPABILITY, Card
from loadcheck.predict.graphs import NO_GRAPHS, capture_sizes, graph_memory
from loadcheck.predict.kv import BLOCK_TOKENS, config_block_bytes, kv_cache_memory
from loadcheck.predict.outside_budget import adapter_extras, engine_extras, training_memory
from loadcheck.predict.refusals import Obstacle, known_warnings, refusals
from loadcheck.predict.slots import lora_slots, slots_only
from loadcheck.predict.terms import Term, total
from loadcheck.predict.unsloth_plan import (
    SEQUENCES_BEYOND,
    SEQUENCES_LADDER,
    UnslothPlan,
    largest_budget_bytes,
    unsloth_plan,
)
from loadcheck.predict.weights import weights
from loadcheck.specs.files import changed
from loadcheck.specs.model import ModelConfig
from loadcheck.specs.profile import Profile
from loadcheck.units import show_bytes, to_gib

TRAINING_TOKENS = 1024
"""Tokens of the batch that training headroom is stated for: up to so many, unsloth keeps the logits."""


EDGE_SHARE = 0.05
"""A KV estimate this near to a bound of unsloth's ladder is named."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """Every figure of a load, before it happens.

    Attributes:
        terms: the device memory at the peak of the load, which answers one short prompt, as a tree that sums.
        full_batch: the same while vLLM works on a full batch.
        obstacles: what will keep the load from succeeding; empty where it fits.
        notes: what a reader should know about how sure the figures are.
        edges: steps of unsloth's ladder of sequences that its estimate stands near to.
        warnings: what will go wrong after a load that fits.
    """

    figures: Figures
    terms: Term
    full_batch: Term
    obstacles: tuple[Obstacle, ...]
    notes: tuple[str, ...]
    edges: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Whether the load goes through, one short answer and training steps included; `warnings` may say that use will not."""
        return not self.obstacles

    @property
    def full_batch_peak_bytes(self) -> int:
        """The most that the card holds, of the load and of a full batch after it: what settings to work with must leave room for."""
        return max(self.terms.num_bytes, self.full_batch.num_bytes)

    def to_json(self) -> dict[str, Any]:
        return {
            "fits": self.fits,
            "figures": self.figures.to_json(),
            "bytes": self.figures.bytes_json(),
            "obstacles": [
                {"what": each.what, "engine_says": each.engine_says, "remedy": each.remedy} for each in self.obstacles
            ],
            "notes": [*self.notes, *self.edges],
            "warnings": list(self.warnings),
            "busy_peak_gib": round(to_gib(self.full_batch_peak_bytes), 2),
            "terms": self.terms.to_json(),
        }


def predict(config: ModelConfig, profile: Profile, card: Card, ram_available_bytes: int) -> Prediction:
    """The load of `config` with `profile`'s settings on `card`."""
    plan = unsloth_plan(
        config,
        total_bytes=card.total_bytes,
        free_bytes=card.free_bytes,
        max_seq_length=profile.max_seq_length,
        max_lora_rank=profile.max_lora_rank,
        gpu_memory_utilization=profile.gpu_memory_utilization,
        conservativeness=profile.conservativeness,
        ram_available_bytes=ram_available_bytes,
    )
    return predict_from_plan(config, profile, card, plan)


def predict_from_plan(config: ModelConfig, profile: Profile, card: Card, plan: UnslothPlan) -> Prediction:
    """What follows once unsloth's plan is known: from a formula, or from a log that says it."""
    parts = _Parts.of(config, profile, card, plan)
    found = tuple(obstacles(config, profile, card, plan, parts))
    full_batch = _full_batch(config, card, parts)
    return Prediction(
        figures=_figures(config, profile, card, plan, parts),
        terms=parts.peak,
        full_batch=full_batch,
        obstacles=found,
        notes=tuple(_notes(card)),
        edges=tuple(edges(plan)),
        warnings=() if found else tuple(_warnings(card, plan, full_batch)),
    )


@dataclass(frozen=True, slots=True)
class _Parts:
    """The amounts that figures and terms are both made of."""

    weights: Term
    activation: Term
    non_torch_bytes: int
    budget_bytes: int
    kv_available_bytes: int
    num_gpu_blocks: int
    peak: Term

    @property
    def in_budget_bytes(self) -> int:
        """What vLLM's budget must hold before any KV cache."""
        return self.weights.num_bytes + self.activation.num_bytes + self.non_torch_bytes

    def peak_part_bytes(self, name: str) -> int:
        """A part of the peak; a part of 0 is not among them."""
        return next((part.num_bytes for part in self.peak.parts if part.name == name), 0)

    @classmethod
    def of(cls, config: ModelConfig, profile: Profile, card: Card, plan: UnslothPlan) -> _Parts:
        model = weights(config)
        activation = activation_peak(config, plan.max_model_len, max(plan.max_num_seqs, 1), card.compute_capability)
        non_torch = card.assumed_non_torch_bytes
        # vllm/worker/worker.py:226-249: floats until the last step
        budget = card.total_bytes * plan.utilization
        available = budget - (model.num_bytes + activation.num_bytes + non_torch)
        blocks = max(int(available // config_block_bytes(config)), 0)
        peak = _peak(config, profile, card, plan, model, kv_cache_memory(config, blocks), non_torch)
        return cls(model, activation, non_torch, int(budget), int(available), blocks, peak)


def _peak(
    config: ModelConfig, profile: Profile, card: Card, plan: UnslothPlan, model: Term, cache: Term, non_torch_bytes: int
) -> Term:
    """What the card holds once everything is there: more than vLLM's budget, as slots, graphs and adapters lie outside it."""
    num_seqs = max(plan.max_num_seqs, 1)
    capability, adapters = card.compute_capability, profile.adapters
    terms = [
        Term("context", card.total_bytes - card.free_bytes, "used before the load: CUDA's own, and other processes"),
        Term("non_torch", non_torch_bytes, "vllm/worker/worker.py:205-271; env/gpus.toml"),
        model,
        lora_slots(config, profile.max_lora_rank, plan.max_model_len, num_seqs),
        cache,
        _graphs(config, profile, card, num_seqs),
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


def _full_batch(config: ModelConfig, card: Card, parts: _Parts) -> Term:
    """What the card holds while vLLM works on a full batch: all that stays after the load, and the whole activation peak.

    vLLM's profile run is such a batch (max_num_seqs prompts that share max_num_batched_tokens), and its budget keeps that peak free
    for when there is one (vllm/worker/worker.py:205-271). Slots, graphs, adapters and what unsloth keeps lie on top of the budget. The
    load's one short answer takes next to nothing of it, so `peak` has none. Two amounts both sides count, and the card holds once:
    cuBLAS's workspace and LoRA's pointers stay from the profile run on. Training is left out: the engine idles while it runs.
    Derived from there; no run of ours has filled a batch yet.
    """
    once = cublas_workspace(card.compute_capability).num_bytes + lora_pointers(config).num_bytes
    stays = [part for part in parts.peak.parts if part.name != "training"]
    batch = Term(
        "full batch", parts.activation.num_bytes - once, f"vllm/worker/worker.py:205-271; {parts.activation.name}"
    )
    return total("full_batch_device", [*stays, batch])


def _graphs(config: ModelConfig, profile: Profile, card: Card, num_seqs: int) -> Term:
    if profile.enforce_eager:
        return NO_GRAPHS
    return graph_memory(config, num_seqs, card.compute_capability, card.graph_node_bytes)


def _figures(config: ModelConfig, profile: Profile, card: Card, plan: UnslothPlan, parts: _Parts) -> Figures:
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
        weights_bytes=parts.weights.num_bytes,
        budget_bytes=parts.budget_bytes,
        non_torch_bytes=card.non_torch_bytes,
        activation_peak_bytes=parts.activation.num_bytes,
        kv_cache_bytes=parts.kv_available_bytes,
        num_gpu_blocks=parts.num_gpu_blocks,
        num_cpu_blocks=plan.swap_bytes // config_block_bytes(config),
        max_concurrency=parts.num_gpu_blocks * BLOCK_TOKENS / plan.max_model_len,
        num_cuda_graphs=0 if profile.enforce_eager else len(capture_sizes(num_seqs)),
        cuda_graph_bytes=_graphs(config, profile, card, num_seqs).num_bytes,
        lora_slots_bytes=slots_only(config, profile.max_lora_rank),
        peak_device_bytes=parts.peak.num_bytes,
        **_adapter_figures(config, profile),
    )


def _adapter_figures(config: ModelConfig, profile: Profile) -> dict[str, Any]:
    adapters = profile.adapters
    if adapters is None:
        return {}
    params = adapter_params(config, adapters.r, adapters.target_modules)
    return {
        **patched(config, adapters.target_modules, adapters.lora_dropout),
        "trainable_params": params,
        "total_params": base_params(config) + params,
        "adapter_bytes": adapter_memory(config, adapters.r, adapters.target_modules).num_bytes,
    }


def obstacles(
    config: ModelConfig, profile: Profile, card: Card, plan: UnslothPlan, parts: _Parts
) -> Iterator[Obstacle]:
    """What will keep the load from succeeding, in the order in which the engine would meet it."""
    if card.refused is not None:
        says = (
            "Unsloth: Your GPU is too old!"
            if card.compute_capability < MIN_CAPABILITY
            else "no kernel image is available"
        )
        yield Obstacle(
            f"{card.name} cannot run this stack: {card.refused}", says, "take a card of compute capability 7.5 to 9.0"
        )
    yield from refusals(config, profile, card)
    cause = _too_large(config, profile, card, plan, parts)
    too_full = parts.peak.num_bytes > card.total_bytes
    if plan.cut_from is not None and cause is None:
        yield _cut(plan, too_full)
    yield from _sequences_obstacles(profile, plan)
    if cause is not None:  # what else is short is short for that
        yield cause
        return
    no_cache = _no_cache(plan, parts, too_full)
    if no_cache is not None:
        yield no_cache
    if too_full:
        yield _peak_obstacle(card, parts, kv_is_short=no_cache is not None or plan.cut_from is not None)


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


def _too_large(config: ModelConfig, profile: Profile, card: Card, plan: UnslothPlan, parts: _Parts) -> Obstacle | None:
    """The one cause where no gpu_memory_utilization helps: the weights, the profile run, or what unsloth keeps for training."""
    model, free = parts.weights.num_bytes, card.free_bytes
    if model + parts.non_torch_bytes > free:
        return Obstacle(
            f"the weights alone take {show_bytes(model)}, and {show_bytes(free)} of the card are free",
            "CUDA out of memory.",
            _fix_weights(config, card, parts),
            "profile",
        )
    slots = parts.peak_part_bytes("lora_slots")
    if parts.in_budget_bytes + slots > free:
        return Obstacle(
            f"weights, LoRA slots and a full batch take {show_bytes(parts.in_budget_bytes + slots)}, and {show_bytes(free)} of the "
            "card are free",
            "CUDA out of memory.",
            _fix_batch(config, card, plan),
            "profile",
        )
    most = largest_budget_bytes(config, card.total_bytes, free, profile.max_seq_length)
    if parts.num_gpu_blocks <= 0 and most < parts.in_budget_bytes:
        kept, left = show_bytes(card.total_bytes - most), show_bytes(most) if most else "nothing"
        if not most:
            kept = f"all {kept}"
        return Obstacle(
            f"unsloth keeps {kept} of the card for training on max_seq_length {profile.max_seq_length}: {left} is left for vLLM, "
            f"whose weights and full batch take {show_bytes(parts.in_budget_bytes)}",
            _NO_BLOCKS,
            "lower max_seq_length; `loadcheck fit` finds the longest that fits",
            "kv_cache",
        )
    return None


_NO_BLOCKS = (
    "No available memory for the cache blocks. Try increasing `gpu_memory_utilization` when initializing the engine."
)


def _fix_weights(config: ModelConfig, card: Card, parts: _Parts) -> str:
    """The nearest that would hold the weights; KV cache and the rest come on top."""
    if config.quantization == "16bit":
        quantized = weights(changed(config, {"quantization": "nf4"})).num_bytes
        if quantized + parts.non_torch_bytes < card.free_bytes:
            return f"load in 4-bit, which takes {show_bytes(quantized)}"
    used = card.total_bytes - card.free_bytes
    if parts.in_budget_bytes < card.total_bytes:
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


def _no_cache(plan: UnslothPlan, parts: _Parts, too_full: bool) -> Obstacle | None:
    """vllm/worker/worker.py:532-549."""
    tokens = parts.num_gpu_blocks * BLOCK_TOKENS
    remedy = "raise gpu_memory_utilization, or lower max_seq_length or the number of sequences (conservativeness)"
    if parts.weights.num_bytes > parts.budget_bytes:
        remedy = "raise gpu_memory_utilization: the budget does not even hold the weights"
    if too_full:
        remedy = _LESS
    if parts.num_gpu_blocks <= 0:
        return Obstacle(
            f"no room for the KV cache: weights, a full batch and non_torch take {show_bytes(parts.in_budget_bytes)}, and the "
            f"budget is {show_bytes(parts.budget_bytes)}",
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


def _peak_obstacle(card: Card, parts: _Parts, kv_is_short: bool) -> Obstacle:
    remedy = "lower gpu_memory_utilization: LoRA slots, CUDA graphs and adapters lie outside vLLM's budget"
    return Obstacle(
        f"the load peaks at {show_bytes(parts.peak.num_bytes)}, and the card has {show_bytes(card.total_bytes)}",
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
