"""vLLM's budget: its fixed parts, and the KV cache that remains."""

from __future__ import annotations

from dataclasses import dataclass

from loadcheck.predict.card import Card
from loadcheck.predict.terms import Term
from loadcheck.specs.shape import ModelConfig
from loadcheck.stacks.unsloth_vllm.activation import activation_peak
from loadcheck.stacks.unsloth_vllm.kv import config_block_bytes
from loadcheck.stacks.unsloth_vllm.plan import EnginePlan
from loadcheck.stacks.unsloth_vllm.weights import weights


@dataclass(frozen=True, slots=True)
class Budget:
    """vLLM's budget and its parts (vllm/worker/worker.py:226-249)."""

    weights: Term
    activation: Term
    non_torch_bytes: int
    total_bytes: int
    kv_available_bytes: int
    num_gpu_blocks: int

    @property
    def fixed_bytes(self) -> int:
        """What the budget must hold besides the KV cache."""
        return self.weights.num_bytes + self.activation.num_bytes + self.non_torch_bytes

    @classmethod
    def of(cls, config: ModelConfig, card: Card, plan: EnginePlan, model: Term | None = None) -> Budget:
        """The budget of a plan; `model` replaces the weights where the allocator rounds differently from unsloth's setting."""
        model = weights(config) if model is None else model
        activation = activation_peak(
            config, plan.num_batched_tokens, max(plan.max_num_seqs, 1), card.compute_capability
        )
        non_torch = card.assumed_non_torch_bytes
        budget = card.total_bytes * plan.utilization  # floats until the last step, as in vLLM
        available = budget - (model.num_bytes + activation.num_bytes + non_torch)
        blocks = max(int(available // config_block_bytes(config)), 0)
        return cls(model, activation, non_torch, int(budget), int(available), blocks)
