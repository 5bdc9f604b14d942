"""Device memory as reported by the driver and by torch."""

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
    """The device's and torch's memory in bytes. Peaks count from vLLM's profile run, which resets them."""
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
    """Record what the prediction starts from: the memory with the CUDA context and nothing loaded."""
    import torch

    free, total = torch.cuda.mem_get_info()  # creates the context if there is none
    major, minor = torch.cuda.get_device_capability()
    recorder.record(
        Device(
            gpu_name=torch.cuda.get_device_name(),
            compute_capability=f"{major}.{minor}",
            device_total_bytes=total,
            device_free_bytes=free,
            ram_available_bytes=psutil.virtual_memory().available,
            driver=_driver_version(),
            kernel=os.uname().release,
        )
    )


def record_ram(recorder: Recorder, then: Callable[[], None]) -> None:
    """Record the RAM that unsloth finds when it decides on the swap space (unsloth_zoo/vllm_utils.py:931), then call `then`, which may use some.

    A load beside this one may have used some since `record_device`.
    """
    from unsloth_zoo import vllm_utils

    def virtual_memory() -> Any:
        memory = psutil.virtual_memory()
        recorder.record(RamFound(ram_available_bytes=memory.available))
        then()
        return memory

    vllm_utils.psutil = SimpleNamespace(virtual_memory=virtual_memory)


def check_first_gpu() -> None:
    """Refuse a pinned GPU of another compute capability than the host's first GPU, whose properties vLLM would use: it asks NVML for index 0.

    vllm/platforms/cuda.py:39-52, 245-255. It would choose kernels and dtypes for the wrong card.
    """
    pinned = os.environ.get(PIN)
    own, first = (None, None) if not pinned else _capabilities(pinned)
    if own != first:
        what = f"its compute capability is {own}, but vLLM 0.7.2 uses that of this host's first GPU, {first}"
        remedy = "start it in a container with this GPU alone: --gpus device=UUID"
        raise UnsupportedMachine(Problem("environment", what, remedy, PIN))


def _capabilities(uuid: str) -> tuple[str | None, str | None]:
    """The compute capabilities of this GPU and of the first one, by NVML; None twice if NVML fails, as CUDA will report why."""
    import pynvml

    try:
        pynvml.nvmlInit()
        handles = pynvml.nvmlDeviceGetHandleByUUID(uuid), pynvml.nvmlDeviceGetHandleByIndex(0)
        own, first = ("{}.{}".format(*pynvml.nvmlDeviceGetCudaComputeCapability(handle)) for handle in handles)
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
    """Record the peak device memory: torch's own peak plus what is in use now outside torch."""
    memory = memory_now()
    besides = memory["used_bytes"] - memory["reserved_bytes"]
    recorder.record(Peak(peak_device_bytes=besides + memory["peak_reserved_bytes"], **memory))
