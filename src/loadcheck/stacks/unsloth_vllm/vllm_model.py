"""vLLM's own objects inside unsloth's model: the buffers that wait for adapters, and its process group."""

from __future__ import annotations

from typing import Any


def vllm_model(model: Any) -> Any:
    """vLLM's own module tree, found as in unsloth_zoo/vllm_utils.py:387."""
    return model.vllm_engine.llm_engine.model_executor.driver_worker.model_runner.model


def lora_slots_bytes(vllm_model: Any) -> int:
    """The buffers for one adapter of the largest rank: plain attributes of vLLM's layers (vllm/lora/layers.py)."""
    names = ("lora_a_stacked", "lora_b_stacked", "embeddings_tensors")
    values = (vars(module).get(name) for module in vllm_model.modules() for name in names)
    # A layer may appear under several names: count each tensor once. Linears hold a tuple, one tensor each for q, k, v.
    tensors = {
        id(tensor): tensor
        for value in values
        if value is not None
        for tensor in (value if isinstance(value, tuple | list) else (value,))
    }
    return sum(tensor.nbytes for tensor in tensors.values())


def leave_process_group() -> None:
    """Without this, NCCL ends the log with a warning that its process group was not destroyed."""
    from vllm.distributed.parallel_state import destroy_distributed_environment, destroy_model_parallel

    destroy_model_parallel()
    destroy_distributed_environment()
