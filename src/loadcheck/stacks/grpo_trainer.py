"""trl's GRPOTrainer, and the reward functions in a user's file."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from loadcheck.errors import BadInput, Problem
from loadcheck.stacks.monitored_trainer import monitored
from loadcheck.stacks.step_monitor import Backend
from loadcheck.stacks.train_session import TrainSession

Reward = Callable[..., list[float]]


def grpo_trainer(session: TrainSession, backend: Backend, model: Any, tokenizer: Any, rewards: list[Reward]) -> Any:
    """trl 0.14.0's GRPOTrainer, with unsloth's vLLM where it is loaded; reward functions receive the rows' own columns."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    settings, data = session.job.settings, session.data()
    tokenizer.model_input_names = ["input_ids", "attention_mask"]  # without vLLM, generate rejects any other input
    keys = sorted({key for row in data.rows for key in row.columns})
    columns: dict[str, list[Any]] = {key: [row.columns.get(key) for row in data.rows] for key in keys}
    config = GRPOConfig(
        use_vllm=session.plan.profile.fast_inference,
        num_generations=settings.num_generations,
        max_prompt_length=settings.max_prompt_length,
        max_completion_length=settings.max_completion_length,
        **session.config_arguments(backend),
    )
    return monitored(GRPOTrainer)(
        model=model,
        processing_class=tokenizer,
        reward_funcs=rewards,
        args=config,
        train_dataset=Dataset.from_dict({"prompt": [row.chat for row in data.rows], **columns}),
    )


def reward_functions(file: str | None) -> list[Reward]:
    """The public functions of a Python file that have a parameter `completions`; BadInput where there is none."""
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
        raise BadInput(
            Problem(file, f"{type(error).__name__}: {error}", "fix it: the file is executed as it is")
        ) from error
    found = [
        value for name, value in vars(module).items() if not name.startswith("_") and _takes_completions(value, module)
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
