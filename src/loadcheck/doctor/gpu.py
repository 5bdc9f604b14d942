"""Checks of the GPU and its driver, and of the card's memory against the prediction."""

from __future__ import annotations

from collections.abc import Iterator

from loadcheck.device import GpuProcess
from loadcheck.machine import Finding, Level, Machine, ok, problem, warning
from loadcheck.plan import LoadPlan
from loadcheck.predict import Case
from loadcheck.predict.card import card_of
from loadcheck.stacks import predict
from loadcheck.units import show_bytes

# https://docs.nvidia.com/deploy/cuda-compatibility: the drivers of CUDA 12.0 and of CUDA 12.4 on Linux
MIN_DRIVER = (525, 60, 13)
OWN_DRIVER = (550, 54, 14)
FREE_SHARE = 0.95
"""A context alone takes less than 2 % of any card of env/gpus.toml."""

CPU_INSTEAD = "; without one, the small model runs on the CPU: loadcheck load smollm2-135m-cpu"


def check_gpu(machine: Machine, _: LoadPlan) -> Iterator[Finding]:
    """Whether CUDA sees a GPU; if not, which of the known reasons applies."""
    if machine.gpu is not None:
        yield ok("gpu", f"{machine.gpu.name}, {show_bytes(machine.gpu.total_bytes)}")
        return
    what, remedy = _why_no_gpu(machine)
    yield problem("gpu", what, "no-gpu", "this profile runs on an NVIDIA GPU", remedy + CPU_INSTEAD, cannot=True)


def _why_no_gpu(machine: Machine) -> tuple[str, str]:
    visible = machine.variables.get("CUDA_VISIBLE_DEVICES")
    if machine.driver is None:
        return (
            "there is no NVIDIA driver on this machine",
            "install the driver (525.60.13 or newer) where there is a GPU",
        )
    if not machine.driver.has_library and machine.in_container:
        return (
            "the host has an NVIDIA driver, but this container has no access to it",
            "start the container with --gpus all; for that the host needs nvidia-container-toolkit",
        )
    if not machine.driver.has_library:
        return "the kernel has the NVIDIA driver, but libcuda.so.1 is not found", "install the driver's own libraries"
    if visible is not None:
        return f"CUDA_VISIBLE_DEVICES={visible!r} leaves no GPU visible", "unset CUDA_VISIBLE_DEVICES"
    return (
        "the NVIDIA driver is here, but it lists no device",
        "see nvidia-smi -L and dmesg; in a container, start it with --gpus all",
    )


def check_driver(machine: Machine, _: LoadPlan) -> Iterator[Finding]:
    """The driver's version against CUDA 12.4, considering CUDA's minor version compatibility."""
    if machine.driver is None or machine.driver.version is None:
        return
    version = machine.driver.version
    number = tuple(int(part) for part in version.split(".") if part.isdigit())
    if number < MIN_DRIVER:
        what = f"driver {version} is older than 525.60.13, the oldest that runs CUDA 12"
        yield problem("driver", what, "driver-too-old", cannot=True)
    elif number < OWN_DRIVER:
        yield ok(
            "driver",
            f"driver {version} is older than CUDA 12.4's own (550.54.14), and runs it",
            "within CUDA 12 every driver from 525.60.13 on runs code of a newer minor version, as long as it is compiled for the "
            "card, which torch's and Triton's is; only a CUDA base image may refuse it (NVIDIA_DISABLE_REQUIRE=1)",
        )
    else:
        yield ok("driver", f"driver {version} runs CUDA 12.4")


def check_capability(machine: Machine, _: LoadPlan) -> Iterator[Finding]:
    """Compute capability 7.0 to 9.0, and the data type that follows from it."""
    if machine.gpu is None:
        return
    card = card_of(machine.gpu)
    if card.refused is not None:
        trouble = "gpu-too-old" if card.compute_capability < 7 else "gpu-too-new"
        yield problem("capability", card.refused, trouble, cannot=True)
        return
    dtype = "bfloat16" if card.compute_capability >= 8 else "float16, as it has no bfloat16"
    yield ok("capability", f"compute capability {card.compute_capability}: the load computes in {dtype}")


def check_processes(machine: Machine, _: LoadPlan) -> Iterator[Finding]:
    """Which processes use memory on the GPU, and how much is free."""
    if machine.gpu is None:
        return
    processes = machine.driver.processes if machine.driver else None
    gpu = machine.gpu
    if processes:
        yield warning("processes", f"in use on the GPU: {', '.join(map(_show, processes))}", "gpu-in-use")
    elif gpu.free_bytes < FREE_SHARE * gpu.total_bytes:
        what = f"{show_bytes(gpu.total_bytes - gpu.free_bytes)} are in use, and the processes are not visible from here"
        yield warning("processes", what, "gpu-in-use")
    else:
        yield ok("processes", "nothing else uses the GPU")


def _show(process: GpuProcess) -> str:
    used = "" if process.used_bytes is None else f", {show_bytes(process.used_bytes)}"
    return f"{process.name or 'outside of this container'} (process {process.pid}{used})"


def check_memory(machine: Machine, plan: LoadPlan) -> Iterator[Finding]:
    """The card's free memory against the prediction for the profile; there is none for a load without vLLM."""
    if not plan.profile.has_budget:
        return
    if machine.gpu is None or (card := card_of(machine.gpu)).refused is not None:
        return
    prediction = predict(Case.of(plan, card, machine.ram_available_bytes))
    for obstacle in prediction.obstacles:
        why = f"the engine would say: {obstacle.engine_says}"
        yield Finding(check="memory", level=Level.PROBLEM, what=obstacle.what, why=why, remedy=obstacle.remedy)
    if prediction.fits:
        peak = prediction.figures.peak_device_bytes or 0
        yield ok(
            "memory", f"{show_bytes(card.free_bytes)} are free; the load will peak at {show_bytes(peak)} of the card"
        )
    for edge in prediction.edges:
        remedy = "have the same free memory each time, or choose settings off the edge: loadcheck fit"
        yield Finding(
            check="memory", level=Level.WARNING, what=edge, why="figures of two loads would differ", remedy=remedy
        )


CHECKS = (check_gpu, check_driver, check_capability, check_processes, check_memory)
