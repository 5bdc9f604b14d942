"""What the card holds, by the driver and by torch."""

from __future__ import annotations

import psutil

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
    recorder.event(
        "device",
        gpu_name=torch.cuda.get_device_name(),
        compute_capability=f"{major}.{minor}",
        device_total_bytes=total,
        device_free_bytes=free,
        ram_available_bytes=psutil.virtual_memory().available,
        driver=_driver_version(),
    )


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
    recorder.event("peak", peak_device_bytes=besides + memory["peak_reserved_bytes"], **memory)
