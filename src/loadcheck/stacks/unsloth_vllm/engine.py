"""The load on a GPU: unsloth with vLLM inside, in stages, each of which ends with an event that holds its measurements.

What unsloth and vLLM print is left as it is: the parent parses it from the raw log.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from loadcheck.device import PIN, pin_gpu
from loadcheck.errors import Problem, UnsupportedMachine
from loadcheck.logs.events import Answered, AnsweredAfterTraining, Done, Imported, Loaded, Slots
from loadcheck.plan import LoadPlan
from loadcheck.specs.profile import Profile
from loadcheck.specs.settings import engine_arguments
from loadcheck.stacks.engine_common import seconds_since, trainable
from loadcheck.stacks.recorder import Recorder
from loadcheck.stacks.unsloth_vllm import isolation, startup, vllm_start
from loadcheck.stacks.unsloth_vllm.adapter_init import AdapterInit
from loadcheck.stacks.unsloth_vllm.attaching import add_adapters, no_op, recorded_with_hash
from loadcheck.stacks.unsloth_vllm.device import memory_now, record_device, record_peak, record_ram
from loadcheck.stacks.unsloth_vllm.environment import USABLE, check_visible_devices, query_own_gpu_once, set_environment
from loadcheck.stacks.unsloth_vllm.kernel_compiler import KernelCompiler
from loadcheck.stacks.unsloth_vllm.session import Session
from loadcheck.stacks.unsloth_vllm.vllm_model import leave_process_group, lora_slots_bytes, vllm_model

PACKAGES = (
    "torch", "triton", "vllm", "unsloth", "unsloth_zoo", "xformers", "transformers",
    "peft", "trl", "bitsandbytes", "accelerate", "numpy", "protobuf",
)  # fmt: skip


def run(plan: LoadPlan, directory: Path, recorder: Recorder) -> None:
    """Run the plan with the checkpoint in `directory`.

    BadInput for a profile that contradicts itself; UnsupportedMachine without a GPU that this stack can use.
    """
    profile = plan.profile
    _import_and_prepare(plan, directory, recorder)
    adapter_init = startup.adapter_init(plan.config, profile.adapters)
    model, tokenizer = load(profile, directory, recorder, adapter_init)
    record_adapters = no_op
    if profile.adapters is not None:
        model, attached = add_adapters(model, profile.adapters, adapter_init)
        record_adapters = recorded_with_hash(attached, trainable(model), recorder)
    if profile.fast_inference:
        recorder.record(Slots(lora_slots_bytes=lora_slots_bytes(vllm_model(model))))
    session = Session(profile, model, tokenizer, recorder)
    session.answer(Answered, adapter_id=1, before_record=record_adapters)
    if profile.training.steps:
        session.train()
        saved = session.answer(AnsweredAfterTraining, adapter_id=2)
        if profile.fast_inference:
            session.compare_saved(saved, adapter_id=3)
    record_peak(recorder)
    recorder.record(Done())
    if profile.fast_inference:
        leave_process_group()


def _import_and_prepare(plan: LoadPlan, directory: Path, recorder: Recorder) -> None:
    """Everything before the model is loaded. What can be done beside the imports is begun first."""
    check_visible_devices()
    startup.check_variables()
    set_environment()
    query_own_gpu_once()
    startup.begin_context()
    weights_ready(plan, directory)
    if not plan.profile.training.steps:
        startup.defer_unused_imports()
    import_stack(recorder)
    startup.begin_triton_key()
    if kernels := begin_kernels(plan):
        kernels.finish()
    record_device(recorder)


# ---------------------------------------------------------------------------------------------------------- before the plan


def import_ahead(device_free: threading.Event) -> None:
    """Import before the plan is known, for a load without training; uses the device only once `device_free` is set. `run` reports failures."""
    if PIN not in os.environ and os.environ.get("CUDA_VISIBLE_DEVICES") not in USABLE:
        return
    set_environment()
    query_own_gpu_once()
    with startup.paused_collector(), isolation.no_shell(), suppress(NotImplementedError):
        startup.defer_unused_imports()
        import torch  # noqa: F401  # unsloth imports it first; the import does not touch the device

        device_free.wait()
        pin_gpu()
        startup.begin_context()
        import unsloth  # noqa: F401


def weights_ready(plan: LoadPlan, directory: Path) -> None:
    """The weights are complete, so start reading them; may be called from another thread during `import_ahead`."""
    startup.begin_reading(directory)
    begin_kernels(plan)


def begin_kernels(plan: LoadPlan) -> KernelCompiler | None:
    """The compiler of the LoRA kernels, started; None for a load without vLLM, which has none."""
    return startup.begin_kernels(plan.config, plan.profile.max_lora_rank) if plan.profile.fast_inference else None


def import_stack(recorder: Recorder) -> None:
    """Import unsloth, before anything that it patches (torch, transformers, peft). import_s excludes what `import_ahead` has done."""
    start_s = time.monotonic()
    with startup.paused_collector(), isolation.no_shell():
        try:
            import unsloth  # noqa: F401
        except NotImplementedError as error:  # unsloth/__init__.py:90-91
            remedy = "see that nvidia-smi lists one; in a container, start it with --gpus all; or use the cpu profile"
            raise UnsupportedMachine(Problem("GPU", f"torch sees none ({error})", remedy)) from None
    record_imports(start_s, PACKAGES, recorder)


def record_imports(start_s: float, packages: Sequence[str], recorder: Recorder) -> None:
    """Record the versions imported since `start_s`; from here on a single-process group opens no port."""
    import torch

    isolation.keep_store_in_process(torch.distributed)
    versions = {package: version(package) for package in packages}
    recorder.record(Imported(import_s=seconds_since(start_s), versions=versions, cuda=torch.version.cuda))


# -------------------------------------------------------------------------------------------------------------------- load


def load_arguments(profile: Profile, directory: Path) -> dict[str, Any]:
    """The arguments of `FastLanguageModel.from_pretrained` (unsloth/models/loader.py:62-84).

    An absolute directory under its exact name: for any other, unsloth downloads and executes its newest name mapping.
    """
    arguments: dict[str, Any] = {
        "model_name": str(directory.resolve()),
        "use_exact_model_name": True,
        "max_seq_length": profile.max_seq_length,
        "load_in_4bit": profile.load_in_4bit,
        "fast_inference": profile.fast_inference,
        "max_lora_rank": profile.max_lora_rank,
        "gpu_memory_utilization": profile.gpu_memory_utilization,
    }
    if not profile.fast_inference:
        return arguments
    # Passed on to unsloth_zoo's load_vllm if it accepts them (unsloth/models/llama.py:1792-1795, unsloth_zoo/vllm_utils.py:794-814),
    # else to transformers.
    arguments |= engine_arguments(profile)
    if profile.float8_kv_cache:
        arguments["float8_kv_cache"] = True
    if profile.prefix_caching != "default":
        arguments["enable_prefix_caching"] = profile.prefix_caching == "on"
    return arguments


def load(
    profile: Profile, directory: Path, recorder: Recorder, adapter_init: AdapterInit | None = None
) -> tuple[Any, Any]:
    from unsloth import FastLanguageModel

    start_s = time.monotonic()
    if profile.fast_inference:
        vllm_start.patch()
        record_ram(recorder, adapter_init.begin if adapter_init is not None else lambda: None)
    model, tokenizer = FastLanguageModel.from_pretrained(**load_arguments(profile, directory))
    recorder.record(Loaded(load_s=seconds_since(start_s), **memory_now()))
    startup.freeze_objects()
    return model, tokenizer


# ------------------------------------------------------------------------------------------------------------------- slots
