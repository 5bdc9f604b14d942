"""The load on a CPU: transformers, bitsandbytes and peft, in stages, each of which ends with an event that holds its measurements.

The figures are exact and the same on every machine, except for the times and the peak: memory.py has their formula.
"""

from __future__ import annotations

import os
import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from loadcheck.errors import BadInput, Problem
from loadcheck.logs.events import Answered, Done, Peak, Started, Stepped, WeightsLoaded
from loadcheck.plan import LoadPlan
from loadcheck.specs.profile import Profile
from loadcheck.stacks.engine_common import TRAINING_TEXT, digest, expectation, finite, frozen, seconds_since, trainable
from loadcheck.stacks.recorder import Recorder
from loadcheck.stacks.transformers_cpu.attaching import attach
from loadcheck.stacks.transformers_cpu.cpu_kernels import compute_in_float32, speed_up_dequantize
from loadcheck.stacks.transformers_cpu.events import Trained
from loadcheck.stacks.transformers_cpu.machine import PACKAGES
from loadcheck.stacks.transformers_cpu.memory import held_bytes, peak_rss_bytes
from loadcheck.weights.nf4 import nf4_arguments, quieten, wait_passively

ENVIRONMENT = {
    "CUDA_VISIBLE_DEVICES": "",  # use the CPU even if there is a GPU
    "HF_HUB_OFFLINE": "1",  # the weights are local by now
    "TRANSFORMERS_OFFLINE": "1",
}

DTYPE = "float16"
"""The dtype of unquantized weights and of hidden states: the one that unsloth uses on a T4. (In bfloat16,
SmolLM2 answers nonsense on a CPU; see `weights.nf4.COMPUTE_DTYPE`.)"""


def run(plan: LoadPlan, directory: Path, recorder: Recorder) -> None:
    """Run the plan with the checkpoint in `directory`; BadInput for a profile that contradicts itself."""
    profile = plan.profile
    os.environ.update(ENVIRONMENT)
    wait_passively()
    quieten()
    record_start(plan, recorder)
    tokenizer = tokenizer_of(directory)
    prompt_ids = _prompt_ids(tokenizer, profile)  # before the model is loaded, to reject a prompt that is too long
    model = load(plan, directory, recorder)
    if profile.adapters is not None:
        model = attach(model, profile.adapters, recorder)
    _answer(model, tokenizer, prompt_ids, profile, recorder)
    if profile.training.steps:
        _train(model, tokenizer, profile, recorder)
    recorder.record(Peak(peak_device_bytes=peak_rss_bytes(), rss_now_bytes=psutil.Process().memory_info().rss))
    recorder.record(Done())


# ---------------------------------------------------------------------------------------------------------- before the load


def record_start(plan: LoadPlan, recorder: Recorder) -> None:
    import torch
    import transformers

    recorder.record(
        Started(
            model=plan.model_name,
            dtype=DTYPE,
            quantization=plan.quantization,
            max_model_len=plan.profile.max_seq_length,
            torch=torch.__version__,
            transformers=transformers.__version__,
            versions={package: version(package) for package in PACKAGES},
            python=platform.python_version(),
            cpu_threads=torch.get_num_threads(),
            ram_available_bytes=psutil.virtual_memory().available,
        )
    )


# --------------------------------------------------------------------------------------------------------------------- load


def tokenizer_of(directory: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(directory)


def load(plan: LoadPlan, directory: Path, recorder: Recorder) -> Any:
    import bitsandbytes  # noqa: F401  # takes seconds that are not part of the load
    from transformers import AutoModelForCausalLM

    arguments: dict[str, Any] = {"torch_dtype": DTYPE, "device_map": {"": "cpu"}}
    if plan.quantization == "nf4":
        arguments |= nf4_arguments(directory)
        speed_up_dequantize()
    start_s = time.monotonic()
    model = AutoModelForCausalLM.from_pretrained(directory, **arguments)
    weights_load_s = seconds_since(start_s)
    by_kind = held_bytes(model)
    recorder.record(
        WeightsLoaded(
            weights_bytes=sum(by_kind.values()),
            weights_load_s=weights_load_s,
            num_parameters=model.num_parameters(),
            by_kind=by_kind,
        )
    )
    compute_in_float32(model)
    return model


# ------------------------------------------------------------------------------------------------------- answer and training


def _prompt_ids(tokenizer: Any, profile: Profile) -> Any:
    """The prompt as tokens; BadInput where no room is left for the answer."""
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": profile.generation.prompt}], add_generation_prompt=True, return_tensors="pt"
    )
    _check_length(ids.shape[1] + profile.generation.max_new_tokens, profile)
    return ids


def _answer(model: Any, tokenizer: Any, ids: Any, profile: Profile, recorder: Recorder) -> None:
    """Generate one greedy answer to the prompt, with the adapters attached."""
    import torch

    num_prompt_tokens = ids.shape[1]
    model.eval()
    start_s = time.monotonic()
    output = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=profile.generation.max_new_tokens,
        do_sample=False,
    )
    generate_s = seconds_since(start_s)
    new_ids = output[0, num_prompt_tokens:]
    text = tokenizer.decode(new_ids, skip_special_tokens=True)
    recorder.record(
        Answered(
            prompt=profile.generation.prompt,
            text=text,
            num_prompt_tokens=num_prompt_tokens,
            num_new_tokens=len(new_ids),
            generate_s=generate_s,
            **expectation(profile, text),
        )
    )


def _check_length(num_tokens: int, profile: Profile) -> None:
    if num_tokens > profile.max_seq_length:
        what = f"prompt and answer need {num_tokens} tokens, more than max_seq_length {profile.max_seq_length}"
        remedy = "shorten the prompt, lower generation.max_new_tokens or raise max_seq_length"
        raise BadInput(Problem(f"profile {profile.name}", what, remedy, "generation"))


def _train(model: Any, tokenizer: Any, profile: Profile, recorder: Recorder) -> None:
    """Train on one fixed text: the loss must fall, the adapters must change, and the base must not."""
    assert profile.adapters is not None
    model.train()
    if profile.adapters.use_gradient_checkpointing:
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()
    adapter_before, base_before = digest(trainable(model)), digest(frozen(model))
    start_s = time.monotonic()
    losses = _steps(model, tokenizer, profile, recorder)
    recorder.record(
        Trained(
            steps=len(losses),
            train_s=seconds_since(start_s),
            first_loss=losses[0],
            last_loss=losses[-1],
            base_unchanged=digest(frozen(model)) == base_before,
            adapter_changed=digest(trainable(model)) != adapter_before,
        )
    )


def _steps(model: Any, tokenizer: Any, profile: Profile, recorder: Recorder) -> list[float | None]:
    """The loss of each step; None where it is not finite."""
    import torch

    encoded = tokenizer(TRAINING_TEXT, return_tensors="pt", truncation=True, max_length=profile.max_seq_length)
    ids = encoded["input_ids"]
    optimizer = torch.optim.AdamW(trainable(model), lr=profile.training.learning_rate)
    losses = []
    for step in range(profile.training.steps):
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(finite(loss.item()))
        recorder.record(Stepped(step=step, loss=losses[-1]))
    return losses
