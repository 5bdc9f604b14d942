"""Training on a GPU, with unsloth's model: trl's SFTTrainer, or its GRPOTrainer with vLLM on the same card."""

from __future__ import annotations

import os
from contextlib import contextmanager
from functools import partial
from typing import Any

import psutil

from loadcheck.data.faults import Faults
from loadcheck.logs.events import Done, TrainPeak, TrainRows
from loadcheck.stacks.grpo_trainer import Reward, grpo_trainer, reward_functions
from loadcheck.stacks.rows import TokenRow
from loadcheck.stacks.sft_trainer import sft_trainer
from loadcheck.stacks.step_monitor import Backend
from loadcheck.stacks.train_session import TrainSession
from loadcheck.stacks.trainer import run_trainer
from loadcheck.stacks.unsloth_vllm import startup
from loadcheck.stacks.unsloth_vllm.attaching import attach
from loadcheck.stacks.unsloth_vllm.device import memory_now, record_device
from loadcheck.stacks.unsloth_vllm.engine import import_stack, load
from loadcheck.stacks.unsloth_vllm.environment import check_visible_devices, query_own_gpu_once, set_environment
from loadcheck.stacks.unsloth_vllm.vllm_model import leave_process_group


def run(session: TrainSession) -> None:
    """Run the session's training.

    BadInput for invalid data or reward functions; UnsupportedMachine without a GPU that this stack can use.
    """
    profile, recorder = session.plan.profile, session.recorder
    rewards = _prepare(session)
    model, tokenizer = load(profile, session.directory, recorder)
    faults = Faults(session.job.data)
    rows = session.tokens(tokenizer, faults)
    faults.refuse()
    assert profile.adapters is not None
    model = attach(model, profile.adapters, recorder)
    recorder.record(TrainRows(**rows.summary()))
    backend = _backend()
    make = partial(_trainer, session, backend, model, tokenizer, rows.trained, rewards)
    run_trainer(session, backend, model, make, rows.examples)
    now = {f"train_{name}": size for name, size in memory_now().items()}
    recorder.record(TrainPeak(train_peak_host_bytes=peak_host_bytes(), **now))
    recorder.record(Done())
    if profile.fast_inference:
        leave_process_group()


def _prepare(session: TrainSession) -> list[Reward]:
    """Everything before the model is loaded; returns GRPO's reward functions."""
    check_visible_devices()
    startup.check_variables()
    set_environment()
    query_own_gpu_once()
    grpo = session.job.settings.method == "grpo"
    rewards = reward_functions(session.job.reward_functions) if grpo else []
    session.partial.mkdir(parents=True, exist_ok=True)
    # unsloth writes its compiled trainers and, for vLLM, the adapters into the working directory
    os.chdir(session.partial)
    startup.begin_context()
    import_stack(session.recorder)
    record_device(session.recorder)
    if grpo:
        _patch_grpo()
    return rewards


def _trainer(
    session: TrainSession, backend: Backend, model: Any, tokenizer: Any, rows: list[TokenRow], rewards: list[Reward]
) -> Any:
    if session.job.settings.method == "grpo":
        return grpo_trainer(session, backend, model, tokenizer, rewards)
    return sft_trainer(session, backend, model, tokenizer, rows)


def peak_host_bytes() -> int:
    """The peak resident set of this process so far, including pinned memory."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _backend() -> Backend:
    import torch

    bf16 = torch.cuda.is_bf16_supported()
    arguments: dict[str, Any] = {"bf16": bf16, "fp16": not bf16}

    def memory() -> dict[str, int]:
        now = memory_now()
        return {
            "peak_allocated_bytes": now["peak_allocated_bytes"],
            "reserved_bytes": now["peak_reserved_bytes"],
            "device_used_bytes": now["used_bytes"] - now["reserved_bytes"] + now["peak_reserved_bytes"],
            "host_bytes": psutil.Process().memory_info().rss,
        }

    @contextmanager
    def forward() -> Any:
        with torch.no_grad(), torch.autocast("cuda", dtype=torch.bfloat16 if bf16 else torch.float16):
            yield

    return Backend(arguments, memory, torch.cuda.reset_peak_memory_stats, forward)


def _patch_grpo() -> None:
    """Have trl's GRPOTrainer use unsloth's engine; call before the model is loaded, as in unsloth's notebooks."""
    from unsloth import FastLanguageModel, PatchFastRL

    PatchFastRL("GRPO", FastLanguageModel)
