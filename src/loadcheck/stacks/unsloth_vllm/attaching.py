"""Attaches the adapters to a loaded model, and records them with their hash."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from msgspec import structs

from loadcheck.logs.events import Attached
from loadcheck.specs.profile import Adapters
from loadcheck.stacks.engine_common import digest, seconds_since, trainable
from loadcheck.stacks.recorder import Recorder
from loadcheck.stacks.unsloth_vllm import startup
from loadcheck.stacks.unsloth_vllm.adapter_init import AdapterInit
from loadcheck.stacks.unsloth_vllm.device import memory_now


def attach(model: Any, adapters: Adapters, recorder: Recorder) -> Any:
    """The model with its adapters, which are hashed and recorded."""
    model, attached = add_adapters(model, adapters)
    recorder.record(structs.replace(attached, adapter_sha256=digest(trainable(model))))
    return model


def add_adapters(model: Any, adapters: Adapters, adapter_init: AdapterInit | None = None) -> tuple[Any, Attached]:
    """The model with its adapters, and the event that lacks only their hash."""
    from unsloth import FastLanguageModel

    start_s = time.monotonic()
    with nullcontext() if adapter_init is None else adapter_init.replay():
        model = FastLanguageModel.get_peft_model(
            model,
            r=adapters.r,
            lora_alpha=adapters.lora_alpha,
            lora_dropout=adapters.lora_dropout,
            bias=adapters.bias,
            target_modules=list(adapters.target_modules),
            use_gradient_checkpointing=adapters.use_gradient_checkpointing,
            random_state=adapters.random_state,
        )
    attach_s = seconds_since(start_s)
    trainable_params, total_params = model.get_nb_trainable_parameters()
    weights = trainable(model)
    attached = Attached(
        attach_s=attach_s,
        trainable_params=trainable_params,
        total_params=total_params,
        adapter_bytes=sum(weight.nbytes for weight in weights),
        adapter_dtype=", ".join(sorted({str(weight.dtype) for weight in weights})),
        adapter_sha256=None,
        **memory_now(),
    )
    return model, attached


def recorded_with_hash(attached: Attached, weights: list[Any], recorder: Recorder) -> Callable[[], None]:
    """Record the adapters once they are hashed: at once, or (measure `hash`) when the function returned is called."""
    sha256 = startup.begin_hash(lambda: digest(weights))

    def record() -> None:
        recorder.record(structs.replace(attached, adapter_sha256=sha256()))

    if startup.enabled("hash"):
        return record
    record()
    return no_op


def no_op() -> None:
    """Nothing is left to do."""
