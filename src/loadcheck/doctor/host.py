"""Checks of the host: its disk, and what Triton and bitsandbytes need from the system."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

from loadcheck.machine import Finding, Machine, Symbols, ok, problem, warning
from loadcheck.plan import LoadPlan
from loadcheck.specs.files import env_dir, read_toml
from loadcheck.specs.shape import ModelConfig
from loadcheck.units import GIB, show_bytes
from loadcheck.weights.package import NEEDED_BYTES
from loadcheck.weights.safetensors_file import file_bytes
from loadcheck.weights.synthetic_tensors import checkpoint_tensors

SHM = "/dev/shm"  # noqa: S108: only its size is read
SHM_BYTES = GIB
NOT_THE_DRIVERS = {"stubs": "stub-libcuda", "compat": "forward-compatibility"}
"""Directories of the CUDA toolkit with a libcuda.so.1 that is not the driver's, and the trouble that it causes."""

SMALL_FILES_BYTES = 20_000_000
"""A checkpoint's tokenizer and configs: 17.2 MB of tokenizer.json for Llama 3."""


def check_platform(machine: Machine, plan: LoadPlan) -> Iterator[Finding]:
    """Whether the locks support the processor and the Python version."""
    known = ("x86_64", "aarch64") if plan.profile.on_cpu else ("x86_64",)
    python = ".".join(map(str, machine.python))
    if machine.platform not in known:
        remedy = f"use a machine with {' or '.join(known)}"
        yield problem("platform", f"the processor is {machine.platform}", "moved-dependency",
                      "the lock's wheels are for others", remedy, cannot=True)  # fmt: skip
    elif not (3, 10) <= machine.python <= (3, 12):
        yield problem("platform", f"this is Python {python}", "moved-dependency", "the locks hold for 3.10 to 3.12",
                      "make clean load, which takes the right Python")  # fmt: skip
    else:
        yield ok("platform", f"Python {python} on {machine.platform}")


def check_disk(machine: Machine, plan: LoadPlan) -> Iterator[Finding]:
    """The free space for the cache against the size of the profile's weights."""
    needed = needed_disk_bytes(plan)
    if machine.has_weights or needed == 0:
        yield ok("disk", f"the weights are here already; {show_bytes(machine.disk_free_bytes)} are free")
    elif machine.disk_free_bytes < needed:
        what = f"{machine.cache_dir}: {show_bytes(machine.disk_free_bytes)} are free, the weights take {show_bytes(needed)}"
        yield problem("disk", what, "disk-full", cannot=True)
    else:
        yield ok("disk", f"{show_bytes(machine.disk_free_bytes)} are free, the weights take {show_bytes(needed)}")


def check_environment_disk(machine: Machine, plan: LoadPlan) -> Iterator[Finding]:
    """The free space for the checkout's environment against the size of the stack; nothing once it is installed."""
    if "torch" in machine.installed or machine.environment_free_bytes is None:
        return
    needed = int(read_toml(env_dir() / "sizes.toml")[plan.profile.engine]["disk_bytes"])
    free = machine.environment_free_bytes
    shared = machine.cache_dir and not machine.has_weights and _on_one_disk(machine)
    weights = needed_disk_bytes(plan) if shared else 0
    beside = f", and the weights {show_bytes(weights)} on the same disk" if weights else ""
    what = f"{show_bytes(free)} are free, the stack takes {show_bytes(needed)}{beside}"
    if free < needed + weights:
        yield problem("disk", f"{machine.environment_dir}: {what}", "disk-full", cannot=True)
    else:
        yield ok("disk", what)


def _on_one_disk(machine: Machine) -> bool:
    """Whether weights and environment share a disk: then both have the same free space, but for what was written between the two readings."""
    return abs(machine.disk_free_bytes - (machine.environment_free_bytes or 0)) < GIB // 16


def needed_disk_bytes(plan: LoadPlan) -> int:
    """The size on disk of the plan's weights. A checkpoint of the hub is as large as a synthetic one, to some kilobytes."""
    if plan.profile.weights == "local":
        return 0
    if plan.profile.weights == "package":
        return NEEDED_BYTES
    return _checkpoint_bytes(plan.config) + SMALL_FILES_BYTES


@cache
def _checkpoint_bytes(config: ModelConfig) -> int:
    """Cached, as two checks ask for it, and a model has a thousand tensors."""
    return file_bytes(checkpoint_tensors(config))


def check_shm(machine: Machine, _: LoadPlan) -> Iterator[Finding]:
    """The size of /dev/shm: a load on one GPU does not need it; data loaders and several GPUs do."""
    if machine.shm_bytes is not None and machine.shm_bytes >= SHM_BYTES:
        yield ok("shm", f"{SHM} has {show_bytes(machine.shm_bytes)}")
        return
    size = "is not there" if machine.shm_bytes is None else f"has {show_bytes(machine.shm_bytes)}"
    yield warning("shm", f"{SHM} {size}", "shared-memory")


def check_libcuda(machine: Machine, _: LoadPlan) -> Iterator[Finding]:
    """Whether Triton finds the driver's library, and the linker can link to it."""
    if machine.driver is None or not machine.driver.has_library:
        return  # check_gpu reports that
    first = next(iter(machine.libcuda_dirs), "")
    if foreign := next((part for part in NOT_THE_DRIVERS if part in Path(first).parts), None):
        yield problem("libcuda", f"libcuda.so.1 is found in {first} first", NOT_THE_DRIVERS[foreign])
    elif not machine.libcuda_dirs:
        yield problem("libcuda", "Triton will not find libcuda.so.1", "libcuda-link")
    elif not machine.has_libcuda_link:
        yield problem("libcuda", f"there is no libcuda.so in {', '.join(machine.libcuda_dirs)}", "libcuda-link")
    else:
        yield ok("libcuda", f"the driver's library is in {machine.libcuda_dirs[0]}, and can be linked to")


def check_compiler(machine: Machine, _: LoadPlan) -> Iterator[Finding]:
    """Whether there are a C compiler and Python's headers, with which Triton compiles its launchers."""
    if machine.compiler is None:
        yield problem("compiler", "there is no C compiler (CC, gcc or clang)", "no-compiler")
    else:
        yield ok("compiler", machine.compiler)
    if not machine.has_python_header:
        yield problem("python-header", "Python.h is not there", "no-compiler")


def check_libstdcxx(machine: Machine, _: LoadPlan) -> Iterator[Finding]:
    """Whether libstdc++ has the symbols that bitsandbytes' library needs."""
    needed, found = machine.glibcxx_needed, machine.glibcxx_found
    if needed is None or found is None:
        return
    if found < needed:
        what = f"libstdc++ has up to {_symbol(found)}, and bitsandbytes needs {_symbol(needed)}"
        yield problem("libstdc++", what, "bitsandbytes-library")
    else:
        yield ok("libstdc++", f"has up to {_symbol(found)}; bitsandbytes needs {_symbol(needed)}")


def _symbol(version: Symbols) -> str:
    return "GLIBCXX_" + ".".join(map(str, version))


CHECKS = (check_platform, check_disk, check_environment_disk, check_libstdcxx)
GPU_CHECKS = (check_shm, check_libcuda, check_compiler)
