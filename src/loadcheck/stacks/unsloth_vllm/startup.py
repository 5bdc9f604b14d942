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
from functools import cache, wraps
from pathlib import Path
from typing import Any

from loadcheck.errors import BadInput, Problem, suggestion
from loadcheck.specs.profile import Adapters
from loadcheck.specs.shape import ModelConfig
from loadcheck.stacks.unsloth_vllm import unused
from loadcheck.stacks.unsloth_vllm.adapter_init import AdapterInit, init_shapes
from loadcheck.stacks.unsloth_vllm.copy_once import copy_once
from loadcheck.stacks.unsloth_vllm.kernel_compiler import KernelCompiler
from loadcheck.stacks.unsloth_vllm.map_ahead import map_ahead

MEASURES = (
    "adapters", "ahead", "blocks", "collector", "context", "copy_once", "hash", "huge_pages", "inspection", "kernels", "loopback",
    "map_ahead", "nvidia_smi", "pageable", "read_ahead", "swap", "triton_key", "unused", "warm_up",
)  # fmt: skip
DISABLE_VARIABLE = "LOADCHECK_START_WITHOUT"
ENABLE_VARIABLE = "LOADCHECK_START_WITH"
OPT_IN = ("huge_pages",)
"""Measures that may cost time on some machines: enabled only where LOADCHECK_START_WITH names them."""

ALLOCATOR = "expandable_segments:True,roundup_power2_divisions:[32:256,64:128,256:64,>:32]"
"""The allocator configuration that unsloth sets (unsloth/__init__.py:47-50)."""

_PINNED = threading.Event()
"""Set once this process may start the driver: the GPU that it is to see is chosen."""
_READ_BYTES = 16 * 2**20
_PIN_THREADS = 16  # the number of cores beside the cards that this was measured on; torch accepts powers of two


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

    (triton/compiler/compiler.py:146-178.) The hash leaves Python's lock to others; 0.25 s of one core.
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


# ---------------------------------------------------------------------------------------------------------- before the engine


def find_configs_by_name() -> None:
    """See `unused.defer_configs`."""
    from transformers.models.auto import auto_factory

    unused.defer_configs(auto_factory)


def inspect_in_process() -> None:
    """Have vLLM inspect the model's class in this process, not in a subprocess that imports all of vLLM again.

    vLLM uses a subprocess to avoid initializing CUDA (vllm/model_executor/models/registry.py:273-276). Here CUDA is initialized
    already, and the load imports the class in any case.
    """
    from vllm.model_executor.models import registry

    def run_here(work: Callable[[], Any]) -> Any:
        return work()

    registry._run_in_subprocess = run_here


def stay_on_this_machine() -> None:
    """Tell vLLM and torch the address of the single-process group, so that they look none up.

    vLLM looks for a route to the internet (vllm/utils.py:446-482), and gloo resolves the host's own name, which takes seconds where it is
    not in /etc/hosts and the name server does not answer (15 s on an H100, in a chroot, 2026-11-24; the chroot has had the host's
    file since, so the two effects were not separated).
    """
    os.environ.setdefault("VLLM_HOST_IP", "127.0.0.1")
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")


def pin_in_parallel() -> None:
    """Pin vLLM's swap space with several threads; a single one takes 3.5 s for 6 GiB (H200).

    The settings are unsloth's (`ALLOCATOR`) and torch's own for pinned memory (c10/cuda/CUDAAllocatorConfig.cpp). The memory is pinned
    at the same point and in the same sizes as without this measure, since pinning takes device pages, too: on an H100, pinning before
    vLLM measures the free memory cost the cache 4 of 20797 blocks, 8 MiB (2026-11-24).
    """
    import torch

    threads = min(_PIN_THREADS, len(os.sched_getaffinity(0)))
    torch.cuda.memory._set_allocator_settings(
        f"{ALLOCATOR},pinned_use_cuda_host_register:True,pinned_num_register_threads:{1 << (threads.bit_length() - 1)}"
    )


def freeze_before_capture() -> None:
    """Before the CUDA graphs are captured, exclude the present objects from garbage collection.

    Where the capture fails, they are collected again: unsloth retries, and needs the memory of the first engine back.
    """
    from vllm.worker import model_runner

    capture_model = model_runner.GPUModelRunnerBase.capture_model

    def capture(self: Any, *arguments: Any) -> None:
        freeze_objects()
        try:
            capture_model(self, *arguments)
        except BaseException:
            gc.unfreeze()
            raise

    model_runner.GPUModelRunnerBase.capture_model = capture


def copy_weights_once() -> None:
    """Copy each weight to the device once, not twice (see copy_once.py)."""
    from vllm.model_executor.model_loader import loader

    loader.safetensors_weights_iterator = copy_once(loader.safetensors_weights_iterator)


def map_weights_ahead() -> None:
    """Map the pages of the weights in other threads while vLLM copies them (see map_ahead.py)."""
    from vllm.model_executor.model_loader import loader

    loader.safetensors_weights_iterator = map_ahead(loader.safetensors_weights_iterator)


def keep_adapters_pageable() -> None:
    """Read adapters into ordinary memory instead of pinning each of their 448 tensors (vllm/lora/models.py:121-170).

    Pinned memory pays off for adapters that are swapped often; a load activates its own once. The adapters of zeros that vLLM profiles
    with stay pinned, as they count in what it measures.
    """
    from vllm.lora import models

    models.is_pin_memory_available = lambda: False


def warm_up_once() -> None:
    """Warm up once before the first graph of each kind, instead of twice before every graph (vllm/worker/model_runner.py:1898-1910).

    The warm-up ensures that nothing is compiled or loaded while a graph is captured. Triton specializes a kernel for sizes of 1 and
    multiples of 16 (triton/runtime/jit.py:295-308), and for no other size. The second run is for torch.compile, which LoRA disables
    (vllm/config.py:3265-3269). The warm-up also sets torch's peak, so it is repeated where the graphs' pool has grown: sizes are
    captured in descending order, and only the largest run after the growth counts.
    """
    import torch
    from vllm.worker import model_runner

    capture = model_runner.CUDAGraphRunner.capture

    def capture_one(self: Any, input_ids: Any, *arguments: Any, **named: Any) -> None:
        size, kinds = len(input_ids), self.model.__dict__.setdefault("_warm", {})
        kind, reserved = (size == 1, size % 16 == 0), torch.cuda.memory_reserved()
        runs = kind not in kinds or reserved > max(kinds.values())
        kinds[kind] = reserved if runs else kinds[kind]
        model_runner._NUM_WARMUP_ITERS = int(runs)
        capture(self, input_ids, *arguments, **named)

    model_runner.CUDAGraphRunner.capture = capture_one


_BLOCKS = 1024  # more than one sequence of the reference run uses


def make_blocks_when_needed() -> None:
    """Have the scheduler's block pool start small, instead of with four objects for each block of the KV cache.

    The pool doubles by itself when more are in use (vllm/core/block/common.py:186-202, 210-212).
    """
    from vllm.core.block import common

    init = common.BlockPool.__init__

    def small(self: Any, block_size: int, create_block: Any, allocator: Any, pool_size: int) -> None:
        init(self, block_size, create_block, allocator, min(pool_size, _BLOCKS))

    common.BlockPool.__init__ = small


def freeze_engine() -> None:
    """Once vLLM's engine exists, exclude it from garbage collection: its scheduler creates an object for every block of the KV cache.

    unsloth then runs more than 15 full collections (unsloth_zoo/vllm_utils.py:692, 1026; unsloth/models/llama.py:2352, 2363, 2420,
    2632), 0.1 s each (H200, 2026-11-29). The collector is off while the scheduler creates its objects, all of which stay. Where the
    engine fails, they are collected again, as after a failed capture.
    """
    from vllm.engine import llm_engine

    initialize = llm_engine.LLMEngine._initialize_kv_caches
    init = llm_engine.LLMEngine.__init__

    def initialize_then_pause(self: Any) -> None:
        initialize(self)
        gc.disable()

    @wraps(init)
    def init_then_freeze(self: Any, *arguments: Any, **named: Any) -> None:
        try:
            init(self, *arguments, **named)
        except BaseException:
            gc.unfreeze()
            raise
        else:
            freeze_objects()
        finally:
            gc.enable()

    llm_engine.LLMEngine._initialize_kv_caches = initialize_then_pause
    llm_engine.LLMEngine.__init__ = init_then_freeze


def patch_vllm_start() -> None:
    """Apply the measures that change vLLM; after unsloth was imported."""
    from unsloth_zoo.vllm_utils import patch_vllm

    # Must come first: unsloth replaces classes in vLLM modules from which other modules import them (unsloth/models/loader.py:279).
    patch_vllm()
    if enabled("unused"):
        find_configs_by_name()
    if enabled("inspection"):
        inspect_in_process()
    if enabled("loopback"):
        stay_on_this_machine()
    if enabled("swap"):
        pin_in_parallel()
    if enabled("copy_once"):
        copy_weights_once()
    if enabled("map_ahead"):
        map_weights_ahead()
    if enabled("pageable"):
        keep_adapters_pageable()
    if enabled("warm_up"):
        warm_up_once()
    if enabled("blocks"):
        make_blocks_when_needed()
    freeze_before_capture()
    if enabled("collector"):
        freeze_engine()
