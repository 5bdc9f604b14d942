"""The load on a GPU: unsloth with vLLM inside, in stages, each of which ends with an event that holds its measurements.

What unsloth and vLLM print is left as it is: the parent parses it from the raw log.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from msgspec import structs

from loadcheck.device import PIN, device_used_reader, pin_gpu
from loadcheck.errors import Problem, UnsupportedMachine
from loadcheck.logs.events import Answered, AnsweredAfterTraining, Attached, Done, Imported, Loaded, Slots
from loadcheck.plan import LoadPlan
from loadcheck.specs.profile import Adapters, Profile
from loadcheck.specs.settings import engine_arguments
from loadcheck.stacks.engine_common import digest, seconds_since, trainable
from loadcheck.stacks.recorder import Recorder
from loadcheck.stacks.unsloth_vllm import isolation, startup, vllm_start
from loadcheck.stacks.unsloth_vllm.adapter_init import AdapterInit
from loadcheck.stacks.unsloth_vllm.device import check_first_gpu, memory_now, record_device, record_peak, record_ram
from loadcheck.stacks.unsloth_vllm.kernel_compiler import KernelCompiler
from loadcheck.stacks.unsloth_vllm.session import Session

PACKAGES = (
    "torch", "triton", "vllm", "unsloth", "unsloth_zoo", "xformers", "transformers",
    "peft", "trl", "bitsandbytes", "accelerate", "numpy", "protobuf",
)  # fmt: skip

# The weights are local by now; a load must not depend on a network.
ENVIRONMENT = {
    "UNSLOTH_DISABLE_STATISTICS": "1",  # unsloth/models/_utils.py:604-692 downloads from the hub to be counted
    "VLLM_NO_USAGE_STATS": "1",  # vllm/usage/usage_lib.py:49-68 posts to a server every 10 minutes
    "DO_NOT_TRACK": "1",
    "HF_HUB_ENABLE_HF_TRANSFER": "0",  # unsloth/__init__.py:58 sets 1 where it is not set
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    # unsloth sets these itself on import (unsloth/__init__.py:29-45), but the driver is initialized before that.
    "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    "CUDA_VISIBLE_DEVICES": "0",
}
UNSET = (
    "VLLM_USE_V1",  # unsloth_zoo/vllm_utils.py:387 accesses internals of the V0 engine
    "VLLM_CONFIGURE_LOGGING",  # the log is parsed
    "VLLM_LOGGING_LEVEL",
    "VLLM_PORT",  # two loads that start at once would both take the first free port from it (vllm/utils.py:505-516)
    "UNSLOTH_USE_MODELSCOPE",  # unsloth/models/loader.py:36 would look the directory up on another hub
)


def run(plan: LoadPlan, directory: Path, recorder: Recorder) -> None:
    """Run the plan with the checkpoint in `directory`.

    BadInput for a profile that contradicts itself; UnsupportedMachine without a GPU that this stack can use.
    """
    profile = plan.profile
    check_visible_devices()
    startup.check_variables()
    set_environment()
    query_own_gpu_once()
    startup.begin_context()
    weights_ready(plan, directory)
    if not profile.training.steps:
        startup.defer_unused_imports()
    import_stack(recorder)
    startup.begin_triton_key()
    if kernels := begin_kernels(plan):
        kernels.finish()
    record_device(recorder)
    adapter_init = startup.adapter_init(plan.config, profile.adapters)
    model, tokenizer = load(profile, directory, recorder, adapter_init)
    record_adapters = _nothing
    if profile.adapters is not None:
        model, attached = add_adapters(model, profile.adapters, adapter_init)
        record_adapters = recorded_with_hash(attached, trainable(model), recorder)
    if profile.fast_inference:
        recorder.record(Slots(lora_slots_bytes=lora_slots_bytes(_vllm_model(model))))
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


# ---------------------------------------------------------------------------------------------------------- before the imports


USABLE = (None, "0")
"""Values of CUDA_VISIBLE_DEVICES that work: unsloth_zoo 2025.2.4 asks torch for cuda:<the first entry> (vllm_utils.py:949-953), but torch counts from 0."""


def check_visible_devices() -> None:
    """Refuse values that would fail minutes later with a misleading error."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible not in USABLE:
        what = f"unsloth_zoo 2025.2.4 breaks with {visible!r}"
        remedy = "unset it, or set it to 0; in a container, choose the GPU with --gpus device=N"
        raise UnsupportedMachine(Problem("environment", what, remedy, "CUDA_VISIBLE_DEVICES"))
    check_first_gpu()


def set_environment() -> None:
    """Set the variables that unsloth, vLLM and the hub's client read once, on import."""
    os.environ.update(ENVIRONMENT)
    for name in UNSET:
        os.environ.pop(name, None)


@cache
def query_own_gpu_once() -> None:
    """`query_own_gpu_only`, once per process, whether or not it imports ahead of its plan."""
    query_own_gpu_only()


MEMORY_USED = "nvidia-smi --query-gpu=memory.used --format=csv"
"""The only query of unsloth's (unsloth/models/_utils.py:962, tokenizer_utils.py:860, unsloth_zoo/compiler.py:546)."""


def query_own_gpu_only() -> None:
    """Limit unsloth's nvidia-smi queries to this load's GPU.

    If two GPUs of the host fill up during a load, whoever uses them, unsloth concludes that the load spans both and gives up
    (unsloth/models/llama.py:1741, 1812, 1845-1846; the trainers, too: llama.py:1877-1884, tokenizer_utils.py:988-995).
    Each of the five queries of a load starts a shell and nvidia-smi, 30 to 37 ms (H200, 2026-11-29). With the measure `nvidia_smi` this
    process asks NVML itself; unsloth only uses whether several GPUs have grown by 1 GiB, of which there is one here either way.
    """
    ask, own = subprocess.check_output, shlex.quote(os.environ.get(PIN) or "0")

    @cache
    def reader() -> Callable[[], int | None]:
        return device_used_reader()

    def check_output(command: Any, *arguments: Any, **options: Any) -> Any:
        if command == MEMORY_USED and startup.enabled("nvidia_smi") and (used := reader()()) is not None:
            return f"memory.used [MiB]\n{used >> 20} MiB\n".encode()
        if isinstance(command, str) and command.startswith("nvidia-smi "):
            command += f" --id={own}"
        return ask(command, *arguments, **options)

    setattr(subprocess, "check_output", check_output)  # noqa: B010


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
    return _nothing


def _nothing() -> None:
    """Nothing is left to do."""


# ------------------------------------------------------------------------------------------------------------------- slots


def _vllm_model(model: Any) -> Any:
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
