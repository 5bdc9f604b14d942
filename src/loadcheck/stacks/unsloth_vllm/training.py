"""Training on a GPU: trl's SFTTrainer, or its GRPOTrainer with vLLM in the same card, on unsloth's model."""

from __future__ import annotations

import importlib.util
import inspect
import os
from collections.abc import Callable
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from loadcheck.data.faults import Faults
from loadcheck.errors import BadInput, Problem
from loadcheck.stacks.rows import Tokens, summary
from loadcheck.stacks.sft_trainer import sft_trainer
from loadcheck.stacks.trainer import Machine, Session, run_trainer, watched
from loadcheck.stacks.unsloth_vllm import engine, startup

Reward = Callable[..., list[float]]


def run(session: Session) -> None:
    """Run the session's training.

    BadInput for data or reward functions that are wrong; UnsupportedMachine without a GPU that this stack can use.
    """
    profile, recorder = session.plan.profile, session.recorder
    rewards = _begin(session)
    model, tokenizer = engine.load(profile, session.directory, recorder)
    faults = Faults(session.job.data)
    rows, masked = session.tokens(tokenizer, faults)
    faults.refuse()
    assert profile.adapters is not None
    model = engine.attach(model, profile.adapters, recorder)
    recorder.event("train_rows", **summary(rows, masked))
    machine = _machine()
    make = partial(_trainer, session, machine, model, tokenizer, rows, rewards)
    run_trainer(session, machine, model, make, rows)
    now = {f"train_{name}": size for name, size in engine.memory_now().items()}
    recorder.event("train_peak", train_peak_host_bytes=peak_host_bytes(), **now)
    recorder.event("done")
    if profile.fast_inference:
        engine.leave_process_group()


def _begin(session: Session) -> list[Reward]:
    """What comes before a model can be loaded; gives GRPO's reward functions."""
    engine.check_visible_devices()
    startup.check_left_out()
    engine.set_environment()
    grpo = session.job.settings.method == "grpo"
    rewards = reward_functions(session.job.reward_functions) if grpo else []
    session.partial.mkdir(parents=True, exist_ok=True)
    os.chdir(
        session.partial
    )  # unsloth writes its compiled trainers and, for vLLM, the adapters into the working directory
    if startup.taken("context"):
        startup.in_background(startup.make_context)
    engine.import_stack(session.recorder)
    engine.record_device(session.recorder)
    if grpo:
        _patch_grpo()
    return rewards


def _trainer(
    session: Session, machine: Machine, model: Any, tokenizer: Any, rows: list[Tokens], rewards: list[Reward]
) -> Any:
    if session.job.settings.method == "grpo":
        return _grpo_trainer(session, machine, model, tokenizer, rewards)
    return sft_trainer(session, machine, model, tokenizer, rows)


def peak_host_bytes() -> int:
    """The largest resident set of this process so far, pinned memory included."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _machine() -> Machine:
    import torch

    bf16 = torch.cuda.is_bf16_supported()
    arguments: dict[str, Any] = {"bf16": bf16, "fp16": not bf16}

    def memory() -> dict[str, int]:
        now = engine.memory_now()
        return {
            "peak_allocated_bytes": now["peak_allocated_bytes"],
            "reserved_bytes": now["peak_reserved_bytes"],
            "device_used_bytes": now["used_bytes"],
            "host_bytes": psutil.Process().memory_info().rss,
        }

    @contextmanager
    def forward() -> Any:
        with torch.no_grad(), torch.autocast("cuda", dtype=torch.bfloat16 if bf16 else torch.float16):
            yield

    return Machine(arguments, memory, torch.cuda.reset_peak_memory_stats, forward)


# -------------------------------------------------------------------------------------------------------------------- GRPO


def _patch_grpo() -> None:
    """Have trl's GRPOTrainer take unsloth's engine; before the model is loaded, as unsloth's notebooks do."""
    from unsloth import FastLanguageModel, PatchFastRL

    PatchFastRL("GRPO", FastLanguageModel)


def _grpo_trainer(session: Session, machine: Machine, model: Any, tokenizer: Any, rewards: list[Reward]) -> Any:
    """trl 0.14.0's GRPOTrainer with unsloth's vLLM; the rows' own columns go to the reward functions."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    settings, data = session.job.settings, session.data()
    tokenizer.model_input_names = ["input_ids", "attention_mask"]  # without vLLM, generate refuses what else one makes
    keys = sorted({key for row in data.rows for key in row.columns})
    columns: dict[str, list[Any]] = {key: [row.columns.get(key) for row in data.rows] for key in keys}
    config = GRPOConfig(
        use_vllm=session.plan.profile.fast_inference,
        num_generations=settings.num_generations,
        max_prompt_length=settings.max_prompt_length,
        max_completion_length=settings.max_completion_length,
        **session.config_arguments(machine),
    )
    return watched(GRPOTrainer)(
        model=model,
        processing_class=tokenizer,
        reward_funcs=rewards,
        args=config,
        train_dataset=Dataset.from_dict({"prompt": [row.chat for row in data.rows], **columns}),
    )


def reward_functions(file: str | None) -> list[Reward]:
    """The functions of a Python file that take `completions` and whose names do not begin with "_"; BadInput where there is none."""
    if file is None:
        raise BadInput(
            Problem("command line", "GRPO needs reward functions", "name a Python file of them", "--reward-functions")
        )
    spec = importlib.util.spec_from_file_location("reward_functions", Path(file))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise BadInput(Problem(file, f"{type(error).__name__}: {error}", "mend it: it is run as it is")) from error
    found = [
        each for name, each in vars(module).items() if not name.startswith("_") and _takes_completions(each, module)
    ]
    if not found:
        what = "has no function that takes `completions`"
        raise BadInput(
            Problem(file, what, "write def reward(completions, **columns): … that returns a list of numbers")
        )
    return found


def _takes_completions(value: Any, module: Any) -> bool:
    return (
        inspect.isfunction(value)
        and value.__module__ == module.__name__
        and "completions" in inspect.signature(value).parameters
    )
