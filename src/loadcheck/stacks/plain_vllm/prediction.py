"""The prediction of a load by vLLM alone: unsloth's formulas without adapters, and torch's allocator in its default configuration."""

from __future__ import annotations

from dataclasses import replace

from msgspec import structs

from loadcheck.figures import Figures
from loadcheck.logs import Attempt
from loadcheck.predict.account import MemoryAccount, Prediction
from loadcheck.predict.band import Band
from loadcheck.predict.case import Case
from loadcheck.predict.stack import LogPrediction
from loadcheck.predict.terms import Term, total
from loadcheck.specs.profile import Profile
from loadcheck.specs.shape import ModelConfig
from loadcheck.stacks.plain_vllm.allocator import own_segment, tight
from loadcheck.stacks.plain_vllm.obstacles import obstacles
from loadcheck.stacks.plain_vllm.plan import plan_of
from loadcheck.stacks.plain_vllm.weights import plain_weights
from loadcheck.stacks.unsloth_vllm.allocator import rounding_by
from loadcheck.stacks.unsloth_vllm.budget import Budget
from loadcheck.stacks.unsloth_vllm.from_log import LogFacts
from loadcheck.stacks.unsloth_vllm.kv import kv_cache_memory
from loadcheck.stacks.unsloth_vllm.outside_budget import HF_ROPE, engine_extras
from loadcheck.stacks.unsloth_vllm.plan import EnginePlan
from loadcheck.stacks.unsloth_vllm.prediction import (
    figures_of,
    full_batch,
    graphs_of,
    notes_on,
    sorted_batch,
    warnings_of,
)
from loadcheck.stacks.unsloth_vllm.slots import lora_slots
from loadcheck.stacks.unsloth_vllm.weights import weights
from loadcheck.units import MIB

ACTIVATION_SLACK_BYTES = 9 * MIB
"""A block of the sampler's peak may be up to 1 MiB larger than its tensor, and nine are alive there; which ones depends on the free blocks."""
SERVED_NOTE = "the log of a server does not say how many adapters it serves, so its figures are not predicted here; `loadcheck serve` judges its own start"
BARE_NOTE = "without a profile only the weights are predicted: vLLM prints neither the tokens of a batch nor how torch's allocator was configured"


def predict(case: Case) -> Prediction:
    """Every figure of the load; `kv_estimate_gib` and the adapters' figures exist only with unsloth."""
    with rounding_by(own_segment):
        return _predict(case, plan_of(case))


def _predict(case: Case, plan: EnginePlan) -> Prediction:
    config, card = case.config, case.gpu
    budget = Budget.of(config, card, plan, plain_weights(config, max(case.max_loras, 1)))
    peak = _peak(case, plan, budget)
    account = MemoryAccount(peak, full_batch(case, plan, peak), sorted_batch(case, peak, budget))
    found = tuple(obstacles(case, plan, budget, account))
    figures = figures_of(config, card, plan, budget)
    dtype = figures.dtype if case.profile.dtype == "auto" else case.profile.dtype.replace("half", "float16")
    return Prediction(
        figures=replace(figures, peak_device_bytes=peak.num_bytes, dtype=dtype),
        account=account,
        obstacles=found,
        notes=tuple(notes_on(card)),
        warnings=() if found else tuple(warnings_of(card, plan, account.largest_bytes)),
    )


def slots_of(case: Case, plan: EnginePlan) -> tuple[Term, ...]:
    """A server's LoRA slots, outside the engine's budget; a load by vLLM alone has none."""
    if not case.max_loras:
        return ()
    rank, tokens = case.profile.max_lora_rank, plan.num_batched_tokens
    return (lora_slots(case.config, rank, tokens, plan.max_num_seqs, case.max_loras),)


def _peak(case: Case, plan: EnginePlan, budget: Budget) -> Term:
    """The device memory after the load; only the CUDA graphs are outside vLLM's budget."""
    config, card = case.config, case.gpu
    capability, graphs = card.compute_capability, plan.captures_graphs
    extras = engine_extras(config, plan.max_model_len, plan.max_num_seqs, capability, graphs)
    return total(
        "peak_device",
        [
            Term(
                "context", card.total_bytes - card.free_bytes, "used before the load: CUDA's own, and other processes"
            ),
            Term("non_torch", budget.non_torch_bytes, "vllm/worker/worker.py:205-271; env/gpus.toml"),
            budget.weights,
            *slots_of(case, plan),
            kv_cache_memory(config, budget.num_gpu_blocks),
            graphs_of(config, card, plan),
            total(extras.name, [part for part in extras.parts if part.name != HF_ROPE]),
        ],
    )


def predict_from_log(attempt: Attempt, config: ModelConfig, profile: Profile | None, gpu: str | None) -> LogPrediction:
    """The figures that the log should contain; without a profile only the weights, for either allocator configuration."""
    if attempt.formats["LoRA kernels"]:
        return LogPrediction(note=SERVED_NOTE)
    config = structs.replace(config, lora=False)
    if profile is None:
        with rounding_by(tight):
            least = weights(config).num_bytes
        most = plain_weights(config).num_bytes
        band = Band(least, most, "by how torch's allocator was set")
        return LogPrediction(Figures(weights_bytes=most), {"weights_bytes": band}, BARE_NOTE)
    log = LogFacts(attempt, config, profile, gpu)
    if (card := log.card()) is None:
        return LogPrediction(note="the log does not say the card's memory, so nothing is predicted")
    figures = predict(Case(config=config, profile=profile, card=card)).figures
    return LogPrediction(figures, {**log.bands(figures), **activation_band(figures)})


def activation_band(figures: Figures) -> dict[str, Band]:
    """The band of the one figure that torch's allocator affects."""
    value = figures.activation_peak_bytes
    assert value is not None
    why = "torch's allocator leaves up to 1 MiB in a block"
    return {"activation_peak_bytes": Band(value - ACTIVATION_SLACK_BYTES, value + ACTIVATION_SLACK_BYTES, why)}
