"""What this machine has: its GPU as CUDA and NVML see it, and its memory.

`python -m loadcheck.device` prints the GPU as JSON. It runs as its own short-lived process, because the memory that is free can
only be asked for within a CUDA context, and a context of ours must not weigh on the load that follows.
"""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class GpuDevice:
    """A GPU as CUDA reports it, with nothing loaded but the context itself.

    Attributes:
        total_bytes, free_bytes: of cuMemGetInfo, which is what torch.cuda.mem_get_info returns.
        driver_cuda: the newest CUDA version that the driver knows, such as "12.4".
    """

    name: str
    compute_capability: str
    total_bytes: int
    free_bytes: int
    driver_cuda: str


def read_gpu() -> GpuDevice | None:
    """The first visible GPU; None where there is no driver or no device."""
    try:
        result = subprocess.run(
            [sys.executable, "-m", "loadcheck.device"], capture_output=True, text=True, timeout=60, check=False
        )
        data = json.loads(result.stdout or "null")
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
    return GpuDevice(**data) if data else None


def ram_available_bytes() -> int:
    """Memory that programs may still take, as unsloth reads it for its swap space (unsloth_zoo/vllm_utils.py:931)."""
    import psutil

    return int(psutil.virtual_memory().available)


def _probe() -> GpuDevice | None:
    """Ask the CUDA driver itself, through its C interface: no torch, half a second."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    version, device, count = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    if cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count)) or count.value == 0:
        return None
    if cuda.cuDriverGetVersion(ctypes.byref(version)) or cuda.cuDeviceGet(ctypes.byref(device), 0):
        return None
    name = ctypes.create_string_buffer(256)
    major, minor, context = ctypes.c_int(), ctypes.c_int(), ctypes.c_void_p()
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    calls = (
        cuda.cuDeviceGetName(name, 256, device),
        cuda.cuDeviceGetAttribute(ctypes.byref(major), 75, device),  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR
        cuda.cuDeviceGetAttribute(ctypes.byref(minor), 76, device),  # …_MINOR
        cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device),
        cuda.cuCtxSetCurrent(context),
        cuda.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total)),
    )
    if any(calls):
        return None
    return GpuDevice(
        name=name.value.decode(errors="replace"),
        compute_capability=f"{major.value}.{minor.value}",
        total_bytes=total.value,
        free_bytes=free.value,
        driver_cuda=f"{version.value // 1000}.{version.value % 1000 // 10}",
    )


def device_used_reader() -> Callable[[], int | None]:
    """A function that returns the bytes in use on the first GPU, by NVML; it returns None where there is no NVML."""
    nvml, handle = _nvml()

    def read() -> int | None:
        if nvml is None:
            return None
        try:
            # version 2 counts the driver's own reserve (480 MiB on an H100) apart, as CUDA does
            return int(nvml.nvmlDeviceGetMemoryInfo(handle, version=nvml.nvmlMemory_v2).used)
        except nvml.NVMLError:
            return None

    return read


def _nvml() -> tuple[Any, Any]:
    try:
        import pynvml

        pynvml.nvmlInit()
        return pynvml, pynvml.nvmlDeviceGetHandleByIndex(0)
    except Exception:  # no package, no driver, no device: in each case there is nothing to read
        return None, None


if __name__ == "__main__":
    found = _probe()
    print(json.dumps(asdict(found) if found else None))
