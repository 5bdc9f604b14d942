"""Measures that cut the start-up time to a fifth without changing any memory figure.

Each measure has a name. LOADCHECK_START_WITHOUT disables some: a comma-separated list, or "all". docs/startup.md says what each one
saves, and in which run; LOG.md says what did not help. `make bench` compares every figure with and without them.
"""

from __future__ import annotations

import ctypes
import gc
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from loadcheck.errors import BadInput, Problem, suggestion
from loadcheck.specs.profile import Adapters
from loadcheck.specs.shape import ModelConfig
from loadcheck.stacks.unsloth_vllm import unused
from loadcheck.stacks.unsloth_vllm.adapter_init import AdapterInit, init_shapes
from loadcheck.stacks.unsloth_vllm.kernel_compiler import KernelCompiler

MEASURES = (
    "adapters", "ahead", "blocks", "collector", "context", "copy_once", "hash", "huge_pages", "inspection", "kernels", "loopback",
    "map_ahead", "nvidia_smi", "pageable", "read_ahead", "swap", "triton_key", "unused", "warm_up",
)  # fmt: skip
DISABLE_VARIABLE = "LOADCHECK_START_WITHOUT"
ENABLE_VARIABLE = "LOADCHECK_START_WITH"
OPT_IN = ("huge_pages",)
"""Measures that may cost time on some machines: enabled only where LOADCHECK_START_WITH names them."""

_PINNED = threading.Event()
"""Set once this process may start the driver: the GPU that it is to see is chosen."""
_READ_BYTES = 16 * 2**20


def enabled(measure: str) -> bool:
    """Whether a measure is on: all are, except those in LOADCHECK_START_WITHOUT and opt-in ones not in LOADCHECK_START_WITH."""
    assert measure in MEASURES
    opted_in = measure not in OPT_IN or measure in _listed_in(ENABLE_VARIABLE)
    return opted_in and not {measure, "all"} & _listed_in(DISABLE_VARIABLE)


def check_variables() -> None:
    """BadInput where either variable lists an unknown measure, which would have no effect."""
    problems = [*_unknown(DISABLE_VARIABLE, (*MEASURES, "all")), *_unknown(ENABLE_VARIABLE, MEASURES)]
    if problems:
        raise BadInput(problems)


def _unknown(variable: str, known: tuple[str, ...]) -> Iterator[Problem]:
    for name in sorted(_listed_in(variable) - {*known, ""}):
        yield Problem("environment", f"{name!r} is not a measure", suggestion(name, known), variable)


def _listed_in(variable: str) -> set[str]:
    return {name.strip() for name in os.environ.get(variable, "").split(",")}


def variables() -> dict[str, str]:
    """Variables that have to be set before the engine's process starts.

    `huge_pages`: glibc asks for huge pages for what it maps (glibc.malloc.hugetlb, glibc 2.35 on; ineffective where the system has them
    off). vLLM's swap space, 8 GiB with torch's rounding, is then found, cleared and pinned by 4,096 pages, not by 2 million. What is pinned
    may take up to 8 MiB less of the device, for the same reason.
    """
    if not enabled("huge_pages") or "GLIBC_TUNABLES" in os.environ:
        return {}
    return {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}


# ------------------------------------------------------------------------------------------------------------- during the imports


@contextmanager
def paused_collector() -> Iterator[None]:
    """Import with the garbage collector off, then exclude everything that was imported from later collections.

    The imports create 640,000 permanent objects. vLLM and unsloth then run about 80 full collections before the first token (two
    for each CUDA graph: torch/cuda/graphs.py:174 and vllm/worker/model_runner.py:1941; twelve in get_peft_model:
    unsloth/models/llama.py:2352, 2363, 2420, 2632), 0.6 s each (2 cores, imports alone, 2026-11-24). Only objects created later can
    hold device memory, and those are collected as before.
    """
    if not enabled("collector"):
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()  # before enabling it: an enabled collector would scan all new objects at once
        gc.enable()


def freeze_objects() -> None:
    """Exclude all present objects from garbage collection; for objects that live until the process ends."""
    if enabled("collector"):
        gc.collect()
        gc.freeze()


def in_background(work: Callable[[], object]) -> threading.Thread:
    """Run `work` in a daemon thread. Where it fails, the load does the same work later and reports the error.

    A traceback printed by this thread would read, in the log, like that of a failed load.
    """

    def quietly() -> None:
        with suppress(Exception):
            work()

    thread = threading.Thread(target=quietly, daemon=True)
    thread.start()
    return thread


@cache
def defer_unused_imports() -> None:
    """Defer the imports that a load without training never uses; takes effect once, and must precede the import of unsloth."""
    if not enabled("unused"):
        return
    unused.defer()
    import torch  # unsloth imports it first, too

    unused.defer_compiler(torch)


@cache
def begin_context() -> None:
    """Create the CUDA context while Python imports; takes effect once, whoever calls first, and after `pin_gpu`."""
    _PINNED.set()
    if enabled("context"):
        in_background(make_context)


@cache
def begin_reading(directory: Path) -> None:
    """Read the weights into the page cache while Python imports; takes effect once per process, whoever calls first.

    The command begins with it, and the engine reads again: what the command has read by then takes 0.25 s of one core (5.7 GB).
    """
    if enabled("read_ahead"):
        in_background(lambda: read_ahead(directory))


@cache
def begin_kernels(config: ModelConfig, rank: int) -> KernelCompiler | None:
    """Compile the LoRA kernels while Python imports (see kernels.py); takes effect once, whoever calls first. None where it is off."""
    if not enabled("kernels"):
        return None
    compiler = KernelCompiler(config, rank, _PINNED)
    compiler.start()
    return compiler


def begin_triton_key() -> None:
    """Compute Triton's own key on another thread: it hashes its 473 MB library before its first kernel, and keeps the result.

    (triton/compiler/compiler.py:146-178.) The hash leaves Python's lock to others; the profile run took 1.0 s instead of 1.3 (H200, 2026-11-30).
    """
    if enabled("triton_key"):
        from triton.compiler.compiler import triton_key

        in_background(triton_key)


def make_context() -> None:
    """Initialize the driver and create the device's context; this waits for the device and does not hold Python's lock.

    torch later uses this same context (cudaSetDevice takes the primary one), so it costs no additional device memory.
    """
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return
    device, context = ctypes.c_int(), ctypes.c_void_p()
    if cuda.cuInit(0) == 0 and cuda.cuDeviceGet(ctypes.byref(device), 0) == 0:
        cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device)


def read_ahead(directory: Path) -> None:
    """Read the weights into the page cache, so that the load finds them in memory however slow the disk is."""
    buffer = bytearray(_READ_BYTES)
    for path in sorted(directory.glob("*.safetensors")):
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def adapter_init(config: ModelConfig, adapters: Adapters | None) -> AdapterInit | None:
    """Draws the adapters' initial weights while vLLM loads; None where peft draws them when it attaches the adapters."""
    if adapters is None or not enabled("adapters"):
        return None
    return AdapterInit(adapters.random_state, init_shapes(config, adapters))


def begin_hash(compute: Callable[[], str]) -> Callable[[], str]:
    """A function that returns the adapters' hash; computed on another thread while they are saved and first used, which change none.

    SHA-256 and the copies from the device leave Python's lock to others (0.2 s of one core for 336 MB, 2 cores, 2026-11-29).
    """
    if not enabled("hash"):
        return compute
    pool = ThreadPoolExecutor(1)
    future = pool.submit(compute)
    pool.shutdown(wait=False)
    return future.result
