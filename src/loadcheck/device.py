"""Reads this machine's GPU, through CUDA and NVML, and its memory.

`python -m loadcheck.device` prints the GPU as JSON. It runs as a short-lived process of its own, because free memory can only be read
within a CUDA context, and our context must not take memory from the load that follows.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from loadcheck.errors import Problem, UnsupportedMachine

KERNEL_DRIVER = Path("/proc/driver/nvidia/version")
"""Belongs to the host's kernel, so it exists in a container without a GPU, too."""
PIN = "LOADCHECK_GPU"
"""The UUID of the only GPU that a load may see, on a host with several. CUDA_VISIBLE_DEVICES cannot hold it: vLLM 0.7.2 parses its
entries as numbers (vllm/platforms/cuda.py:35-48), so it is set to 0 once the driver has started."""


@dataclass(frozen=True, slots=True)
class GpuDevice:
    """A GPU as CUDA reports it, with nothing loaded but the context itself.

    Attributes:
        total_bytes, free_bytes: from cuMemGetInfo, which torch.cuda.mem_get_info returns.
        driver_cuda: the newest CUDA version that the driver supports, such as "12.4".
        uuid: as nvidia-smi -L prints it, "GPU-…"; None if the driver does not report it.
    """

    name: str
    compute_capability: str
    total_bytes: int
    free_bytes: int
    driver_cuda: str
    uuid: str | None = None


@dataclass(frozen=True, slots=True)
class GpuProcess:
    """A process that uses memory on the first GPU. `name` is None for a process outside of this container."""

    pid: int
    name: str | None
    used_bytes: int | None


@dataclass(frozen=True, slots=True)
class Driver:
    """The NVIDIA driver of this machine.

    Attributes:
        version: such as "550.54.15"; None if only its library is found.
        has_library: whether libcuda.so.1 can be opened.
        processes: those that use the first GPU; None if NVML is not available.
    """

    version: str | None
    has_library: bool
    processes: tuple[GpuProcess, ...] | None


def has_device() -> bool:
    """Whether an NVIDIA GPU's device file (on WSL: dxg) exists, so that a GPU may be read. A quick test that does not call the driver."""
    return any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/dxg").exists()


def read_gpu() -> GpuDevice | None:
    """The first visible GPU; None without a driver or a device."""
    try:
        result = subprocess.run(
            [sys.executable, "-m", "loadcheck.device"], capture_output=True, text=True, timeout=60, check=False
        )
        data = json.loads(result.stdout or "null")
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
    return GpuDevice(**data) if data else None


def read_gpus() -> tuple[tuple[str, str], ...]:
    """UUID and name of every GPU of this host, in NVML's order; empty if there is none."""
    try:
        import pynvml

        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(number) for number in range(pynvml.nvmlDeviceGetCount())]
        return tuple(
            (str(pynvml.nvmlDeviceGetUUID(handle)), str(pynvml.nvmlDeviceGetName(handle))) for handle in handles
        )
    except Exception:  # no package, no driver or no device
        return ()


def ram_available_bytes() -> int:
    """Memory available to programs, as unsloth reads it for its swap space (unsloth_zoo/vllm_utils.py:931)."""
    import psutil

    return int(psutil.virtual_memory().available)


def is_wsl(kernel_release: str) -> bool:
    """Whether a kernel is WSL2's, by its name: 5.15.167.4-microsoft-standard-WSL2; a custom build may lack the last part."""
    return "microsoft" in kernel_release.lower()


def start_driver() -> ctypes.CDLL | None:
    """Start the CUDA driver in this process; with `PIN` it sees only that GPU, even if variables change later. None without a driver."""
    if pinned := os.environ.get(PIN):
        os.environ["CUDA_VISIBLE_DEVICES"] = pinned
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    return None if cuda.cuInit(0) else cuda


def pin_gpu() -> None:
    """If `PIN` names a GPU, make it the only and first GPU of this process. Must run before torch, or anything else, starts the driver."""
    if os.environ.get(PIN):
        start_driver()
        os.environ["CUDA_VISIBLE_DEVICES"] = "0"


def pin_for_children() -> dict[str, str]:
    """The variables for a process whose children start the driver themselves, such as a server's engine: with 0 they would use the host's first GPU.

    They give the index of `PIN`'s GPU in NVML's order, which is the bus order; empty without `PIN`. UnsupportedMachine if NVML lists no such GPU.
    """
    if not (pinned := os.environ.get(PIN)):
        return {}
    uuids = [uuid for uuid, _ in read_gpus()]
    if pinned not in uuids:
        what = f"{pinned} is none of this host's GPUs as NVML lists them ({', '.join(uuids) or 'none'})"
        raise UnsupportedMachine(Problem("environment", what, f"name one of them, or unset {PIN}", PIN))
    return {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": str(uuids.index(pinned))}


def _probe() -> GpuDevice | None:
    """Read the GPU from the CUDA driver's C interface: no torch, half a second."""
    cuda = start_driver()
    if cuda is None:
        return None
    version, device, count = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    if cuda.cuDeviceGetCount(ctypes.byref(count)) or count.value == 0:
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
        uuid=_uuid(cuda, device),
    )


def _uuid(cuda: ctypes.CDLL, device: ctypes.c_int) -> str | None:
    """The UUID as nvidia-smi prints it; for a MIG slice that of the whole card (cuda.h, cuDeviceGetUuid)."""
    raw = (ctypes.c_ubyte * 16)()
    return None if cuda.cuDeviceGetUuid(ctypes.byref(raw), device) else f"GPU-{UUID(bytes=bytes(raw))}"


def device_used_reader() -> Callable[[], int | None]:
    """A function that returns the bytes in use on the load's GPU, by NVML; None without NVML."""
    nvml, handle = _nvml()

    def read() -> int | None:
        if nvml is None:
            return None
        try:
            # version 2 does not count the driver's own reserve (480 MiB on an H100) as used, like CUDA
            return int(nvml.nvmlDeviceGetMemoryInfo(handle, version=nvml.nvmlMemory_v2).used)
        except Exception:  # if the device or the driver has gone, it may fail in any way
            return None

    return read


def read_driver() -> Driver | None:
    """The driver, by NVML or by the kernel's file; None if there is none."""
    nvml, handle = _nvml()
    version = _nvml_driver_version(nvml) or _kernel_driver_version()
    has_library = _has_library()
    if version is None and not has_library:
        return None
    return Driver(version, has_library, None if nvml is None else _processes(nvml, handle))


def _nvml_driver_version(nvml: Any) -> str | None:
    try:
        return None if nvml is None else str(nvml.nvmlSystemGetDriverVersion())
    except nvml.NVMLError:
        return None


def _kernel_driver_version() -> str | None:
    try:
        match = re.search(r"\b\d{3}\.\d+(?:\.\d+)?\b", KERNEL_DRIVER.read_text(encoding="ascii", errors="replace"))
    except OSError:
        return None
    return match.group() if match else None


def _has_library() -> bool:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def _processes(nvml: Any, handle: Any) -> tuple[GpuProcess, ...] | None:
    try:
        found = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
    except nvml.NVMLError:
        return None
    return tuple(GpuProcess(process.pid, _process_name(process.pid), process.usedGpuMemory) for process in found)


def _process_name(pid: int) -> str | None:
    import psutil

    try:
        return str(psutil.Process(pid).name())
    except psutil.Error:
        return None


def _nvml() -> tuple[Any, Any]:
    """NVML and its handle of the pinned GPU, or of the first: NVML ignores CUDA_VISIBLE_DEVICES."""
    pinned = os.environ.get(PIN)
    try:
        import pynvml

        pynvml.nvmlInit()
        if pinned:
            return pynvml, pynvml.nvmlDeviceGetHandleByUUID(pinned)
        return pynvml, pynvml.nvmlDeviceGetHandleByIndex(0)
    except Exception:  # no package, no driver or no device
        return None, None


if __name__ == "__main__":
    found = _probe()
    print(json.dumps(asdict(found) if found else None))
