"""What the card holds, by the driver and by torch."""

from __future__ import annotations

import os
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import psutil

from loadcheck.device import PIN
from loadcheck.errors import Problem, UnsupportedMachine
from loadcheck.logs.events import Device, Peak, RamFound
from loadcheck.stacks.recorder import Recorder


def memory_now() -> dict[str, int]:
    """The device's memory and torch's, in bytes. The peaks count from vLLM's profile run on, which resets them."""
    import torch

    free, total = torch.cuda.mem_get_info()
    return {
        "used_bytes": total - free,
        "allocated_bytes": torch.cuda.memory_allocated(),
        "reserved_bytes": torch.cuda.memory_reserved(),
        "peak_allocated_bytes": torch.cuda.max_memory_allocated(),
        "peak_reserved_bytes": torch.cuda.max_memory_reserved(),
    }


def record_device(recorder: Recorder) -> None:
    """What the prediction starts from: memory with the CUDA context there and nothing loaded."""
    import torch

    free, total = torch.cuda.mem_get_info()  # makes the context if there is none
    major, minor = torch.cuda.get_device_capability()
    recorder.record(
        Device(
            gpu_name=torch.cuda.get_device_name(),
            compute_capability=f"{major}.{minor}",
            device_total_bytes=total,
            device_free_bytes=free,
            ram_available_bytes=psutil.virtual_memory().available,
            driver=_driver_version(),
        )
    )


def record_ram(recorder: Recorder, then: Callable[[], None]) -> None:
    """Have the RAM said that unsloth finds when it decides on the swap space (unsloth_zoo/vllm_utils.py:931); what takes some of it comes `then`.

    Since `record_device` a load beside this one may have taken some of it.
    """
    from unsloth_zoo import vllm_utils

    def virtual_memory() -> Any:
        memory = psutil.virtual_memory()
        recorder.record(RamFound(ram_available_bytes=memory.available))
        then()
        return memory

    vllm_utils.psutil = SimpleNamespace(virtual_memory=virtual_memory)


def check_first_gpu() -> None:
    """Refuse a pinned GPU of another capability than the host's first, which vLLM takes for it: its entry 0 is NVML's.

    vllm/platforms/cuda.py:39-52, 245-255. It would choose kernels and types of the other card.
    """
    pinned = os.environ.get(PIN)
    own, first = (None, None) if not pinned else _capabilities(pinned)
    if own != first:
        what = f"it can do {own}, and this host's first GPU {first}, which vLLM 0.7.2 takes for it"
        remedy = "start it in a container that has this GPU alone: --gpus device=UUID"
        raise UnsupportedMachine(Problem("environment", what, remedy, PIN))


def _capabilities(uuid: str) -> tuple[str | None, str | None]:
    """Of the GPU of this UUID, and of the first, by NVML; None twice where it cannot be asked, as CUDA will say why."""
    import pynvml

    try:
        pynvml.nvmlInit()
        handles = pynvml.nvmlDeviceGetHandleByUUID(uuid), pynvml.nvmlDeviceGetHandleByIndex(0)
        own, first = ("{}.{}".format(*pynvml.nvmlDeviceGetCudaComputeCapability(each)) for each in handles)
    except pynvml.NVMLError:
        return None, None
    return own, first


def _driver_version() -> str:
    import pynvml

    pynvml.nvmlInit()
    try:
        return str(pynvml.nvmlSystemGetDriverVersion())
    finally:
        pynvml.nvmlShutdown()


def record_peak(recorder: Recorder) -> None:
    """The most device memory that was in use: torch's own peak, and what is in use now besides torch's."""
    memory = memory_now()
    besides = memory["used_bytes"] - memory["reserved_bytes"]
    recorder.record(Peak(peak_device_bytes=besides + memory["peak_reserved_bytes"], **memory))
