"""Training on a CPU: trl's SFTTrainer or GRPOTrainer on a loaded model with adapters."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import psutil

from loadcheck.data.faults import Faults
from loadcheck.logs.events import Done, TrainPeak, TrainRows
from loadcheck.stacks.grpo_trainer import grpo_trainer, reward_functions
from loadcheck.stacks.preflight import check_seeded
from loadcheck.stacks.sft_trainer import sft_trainer
from loadcheck.stacks.step_monitor import Backend
from loadcheck.stacks.train_session import TrainSession
from loadcheck.stacks.trainer import run_trainer
from loadcheck.stacks.transformers_cpu import engine
from loadcheck.stacks.transformers_cpu.attaching import attach
from loadcheck.stacks.transformers_cpu.memory import peak_rss_bytes
from loadcheck.weights.nf4 import quieten, wait_passively


def run(session: TrainSession) -> None:
    """Run the session's training; BadInput for data that has changed."""
    plan, recorder = session.plan, session.recorder
    assert plan.profile.adapters is not None
    grpo = session.job.settings.method == "grpo"
    rewards = reward_functions(session.job.reward_functions) if grpo else []
    os.environ.update(engine.ENVIRONMENT)
    wait_passively()
    quieten()
    engine.record_start(plan, recorder)
    tokenizer = engine.tokenizer_of(session.directory)
    faults = Faults(session.job.data)
    rows = session.tokens(tokenizer, faults)  # before the model is loaded
    faults.refuse()
    model = attach(engine.load(plan, session.directory, recorder), plan.profile.adapters, recorder)
    check_seeded(model, plan.profile.adapters.random_state)
    if plan.profile.adapters.use_gradient_checkpointing:
        model.enable_input_require_grads()
    allow_cpu_training()
    recorder.record(TrainRows(**rows.summary()))
    checkpointing = bool(plan.profile.adapters.use_gradient_checkpointing)
    backend = _backend(checkpointing)
    make = partial(sft_trainer, session, backend, model, tokenizer, rows.trained)
    if grpo:
        use_base_as_reference()
        make = partial(grpo_trainer, session, backend, model, tokenizer, rewards)
    run_trainer(session, backend, model, make, rows.examples)
    recorder.record(TrainPeak(train_peak_host_bytes=peak_rss_bytes()))
    recorder.record(Done())


def allow_cpu_training() -> None:
    """Let accelerate 1.3.0 train a 4-bit model on a CPU (accelerator.py:1435-1450).

    It checks for a multi-backend build of bitsandbytes, which 0.46.1 is under another name.
    """
    import accelerate.accelerator

    accelerate.accelerator.is_bitsandbytes_multi_backend_available = lambda: True


def use_base_as_reference() -> None:
    """Make GRPO's reference the model without its adapters instead of a copy of the model.

    trl 0.14.0 does so only where it attaches the adapters itself (trainer/grpo_trainer.py:186-194, 446-448).
    """
    import trl.trainer.grpo_trainer

    trl.trainer.grpo_trainer.create_reference_model = lambda _model: None


def _backend(checkpointing: bool) -> Backend:
    import torch

    arguments = {
        "use_cpu": True,
        "dataloader_pin_memory": False,
        "gradient_checkpointing": checkpointing,
        "gradient_checkpointing_kwargs": {"use_reentrant": False} if checkpointing else None,
    }

    def forward() -> AbstractContextManager[Any]:
        context: AbstractContextManager[Any] = torch.no_grad()
        return context

    return Backend(arguments, lambda: {"host_bytes": psutil.Process().memory_info().rss}, lambda: None, forward)
