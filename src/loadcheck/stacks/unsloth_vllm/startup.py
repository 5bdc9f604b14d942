"""A start in less than half the time, at the same figures: what the plain order of things waits for, and how that is avoided.

Each measure has a name, and LOADCHECK_START_WITHOUT leaves it out: a comma-separated list, or "all". docs/startup.md has what each
saves, and the run that says so; what did not help is in LOG.md. None of them moves a figure: `make bench` compares every figure of the
two ways.
"""

from __future__ import annotations

import ctypes
import gc
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, wraps
from pathlib import Path
from typing import Any

from loadcheck.errors import BadInput, Problem, suggestion
from loadcheck.specs.profile import Adapters
from loadcheck.specs.shape import ModelConfig
from loadcheck.stacks.unsloth_vllm import unused
from loadcheck.stacks.unsloth_vllm.drawn import Drawn, shapes
from loadcheck.stacks.unsloth_vllm.mapped import map_ahead

MEASURES = (
    "adapters", "ahead", "blocks", "collector", "context", "inspection", "loopback",
    "map_ahead", "read_ahead", "swap", "unused", "warm_up",
)  # fmt: skip
VARIABLE = "LOADCHECK_START_WITHOUT"
WITH = "LOADCHECK_START_WITH"
ASKED_FOR = ("ahead",)
"""Measures that no GPU has run yet: they are taken only where LOADCHECK_START_WITH names them."""

ALLOCATOR = "expandable_segments:True,roundup_power2_divisions:[32:256,64:128,256:64,>:32]"
"""What unsloth has torch's allocator do (unsloth/__init__.py:47-50)."""

_READ_BYTES = 16 * 2**20
_PIN_THREADS = 16  # as many as the cards that this was measured on had cores; torch takes powers of two


def taken(measure: str) -> bool:
    """Whether a measure is to be taken: all are, but for those that LOADCHECK_START_WITHOUT names, and those that have to be asked for."""
    assert measure in MEASURES
    asked_for = measure not in ASKED_FOR or measure in _named(WITH)
    return asked_for and not {measure, "all"} & _named(VARIABLE)


def check_left_out() -> None:
    """BadInput where one of the two variables names what is no measure: it would change nothing."""
    problems = [*_unknown(VARIABLE, (*MEASURES, "all")), *_unknown(WITH, ASKED_FOR)]
    if problems:
        raise BadInput(problems)


def _unknown(variable: str, known: tuple[str, ...]) -> Iterator[Problem]:
    for name in sorted(_named(variable) - {*known, ""}):
        yield Problem("environment", f"{name!r} is no measure", suggestion(name, known), variable)


def _named(variable: str) -> set[str]:
    return {name.strip() for name in os.environ.get(variable, "").split(",")}


# ------------------------------------------------------------------------------------------------------------- while importing


@contextmanager
def paused_collector() -> Iterator[None]:
    """Import without the garbage collector, and have it never look again at what was imported.

    The imports make 640,000 objects that stay. vLLM and unsloth then collect in full about 80 times before the first token (twice
    for each CUDA graph: torch/cuda/graphs.py:174 and vllm/worker/model_runner.py:1941; twelve times in get_peft_model:
    unsloth/models/llama.py:2352, 2363, 2420, 2632), 0.6 s each (2 cores, imports alone, 2026-11-24). Only what is made later can hold memory of the device, and that is collected as before;
    so what the imports leave behind is not collected even once.
    """
    if not taken("collector"):
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()  # first: a collector that is on looks at once at all that was made
        gc.enable()


def settle() -> None:
    """Take all objects of now out of the collector's sight; for what stays to the end."""
    if taken("collector"):
        gc.collect()
        gc.freeze()


def in_background(work: Callable[[], None]) -> threading.Thread:
    """Start `work` in a thread that ends with the process; what it fails at, the load does itself later, and says what is wrong then.

    A traceback of this thread would be in the log as that of a load that failed.
    """

    def quietly() -> None:
        with suppress(Exception):
            work()

    thread = threading.Thread(target=quietly, daemon=True)
    thread.start()
    return thread


@cache
def put_off_unused() -> None:
    """Have the imports leave out what a load that trains nothing never uses; once, before unsloth is imported."""
    if not taken("unused"):
        return
    unused.put_off()
    import torch  # the first that unsloth imports, too

    unused.leave_compiler(torch)


@cache
def begin_context() -> None:
    """Have the context made while Python imports; once, whoever asks first."""
    if taken("context"):
        in_background(make_context)


@cache
def begin_reading(directory: Path) -> None:
    """Have the weights read while Python imports; once, whoever asks first."""
    if taken("read_ahead"):
        in_background(lambda: read_ahead(directory))


def make_context() -> None:
    """Start the driver and make the device's context, which waits for the device and not for Python.

    torch later takes this same context (cudaSetDevice takes the primary one), so the device holds no byte more.
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


def draws(config: ModelConfig, adapters: Adapters | None) -> Drawn | None:
    """The adapters' first weights, to be drawn while vLLM loads; None where they are drawn when they are attached."""
    if adapters is None or not taken("adapters"):
        return None
    return Drawn(adapters.random_state, shapes(config, adapters))


# ---------------------------------------------------------------------------------------------------------- before the engine


def inspect_in_process() -> None:
    """Have vLLM look at the model's class here, not in a process of its own that imports all of vLLM again.

    vLLM does it apart so as not to initialize CUDA (vllm/model_executor/models/registry.py:273-276); here it is, and the class
    is imported for the load in any case.
    """
    from vllm.model_executor.models import registry

    def run_here(work: Callable[[], Any]) -> Any:
        return work()

    registry._run_in_subprocess = run_here


def stay_on_this_machine() -> None:
    """Tell vLLM and torch the address of a group of one process, so that none is looked up.

    vLLM asks for a route to the internet (vllm/utils.py:446-482), and gloo for the host's own name: seconds where it is in no
    /etc/hosts and the name server does not answer (15 s on an H100, in a chroot, 2026-11-24; since then the chroot has the host's file
    too, so the two were not told apart).
    """
    os.environ.setdefault("VLLM_HOST_IP", "127.0.0.1")
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")


def pin_in_parallel() -> None:
    """Have the pages of vLLM's swap space found and cleared by several threads; one alone takes 3.5 s for 6 GiB (H200).

    The settings are unsloth's (`ALLOCATOR`), and torch's own for pinned memory (c10/cuda/CUDAAllocatorConfig.cpp). Pinned at the
    same place and in the same sizes as without, since what is pinned takes pages of the device, too: on an H100, pinned before vLLM looks, it cost the cache 4 of 20797 blocks, 8 MiB (2026-11-24).
    """
    import torch

    threads = min(_PIN_THREADS, len(os.sched_getaffinity(0)))
    torch.cuda.memory._set_allocator_settings(
        f"{ALLOCATOR},pinned_use_cuda_host_register:True,pinned_num_register_threads:{1 << (threads.bit_length() - 1)}"
    )


def capture_lightly() -> None:
    """Before CUDA graphs are captured, put what is there out of the collector's sight.

    Where the capture fails, all is put back: unsloth tries again, and the first engine's memory must be collected by then.
    """
    from vllm.worker import model_runner

    capture_model = model_runner.GPUModelRunnerBase.capture_model

    def capture(self: Any, *arguments: Any) -> None:
        settle()
        try:
            capture_model(self, *arguments)
        except BaseException:
            gc.unfreeze()
            raise

    model_runner.GPUModelRunnerBase.capture_model = capture


def map_weights_ahead() -> None:
    """Have the weights' pages mapped by other threads while vLLM copies them (see mapped.py)."""
    from vllm.model_executor.model_loader import loader

    loader.safetensors_weights_iterator = map_ahead(loader.safetensors_weights_iterator)


def warm_up_once() -> None:
    """Run the model before the first graph of each kind, once, and not twice before every graph (vllm/worker/model_runner.py:1898-1910).

    The run is there so that nothing is compiled or loaded while a graph is recorded. Triton compiles a kernel anew for sizes of 1 and for
    multiples of 16 (triton/runtime/jit.py:295-308), and for no other size; the second run is for torch.compile, which LoRA switches
    off (vllm/config.py:3265-3269). It also is torch's peak: so it runs once more where the graphs' pool has grown, as the largest run
    after that is the one that counts, and the sizes fall.
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


_BLOCKS = 1024  # more than what one sequence of the reference holds


def make_blocks_when_needed() -> None:
    """Have the scheduler's pool begin with a few objects and not with four for each block of the cache.

    It grows by itself, twofold, where more are in use (vllm/core/block/common.py:186-202, 210-212).
    """
    from vllm.core.block import common

    init = common.BlockPool.__init__

    def few(self: Any, block_size: int, create_block: Any, allocator: Any, pool_size: int) -> None:
        init(self, block_size, create_block, allocator, min(pool_size, _BLOCKS))

    common.BlockPool.__init__ = few


def settle_engine() -> None:
    """Once vLLM's engine stands, put it out of the collector's sight: its scheduler makes an object for every block of the cache.

    After that unsloth collects in full more than 15 times (unsloth_zoo/vllm_utils.py:692, 1026; unsloth/models/llama.py:2352, 2363, 2420,
    2632), 0.1 s each (H200, 2026-11-29). While the scheduler makes them, nothing is collected: all of them stay. Where the engine fails,
    all is put back, as for the capture.
    """
    from vllm.engine import llm_engine

    initialize = llm_engine.LLMEngine._initialize_kv_caches
    init = llm_engine.LLMEngine.__init__

    def quiet_after(self: Any) -> None:
        initialize(self)
        gc.disable()

    @wraps(init)
    def settled(self: Any, *arguments: Any, **named: Any) -> None:
        try:
            init(self, *arguments, **named)
        except BaseException:
            gc.unfreeze()
            raise
        else:
            settle()
        finally:
            gc.enable()

    llm_engine.LLMEngine._initialize_kv_caches = quiet_after
    llm_engine.LLMEngine.__init__ = settled


def quicken_vllm() -> None:
    """Take the measures that change what vLLM does, once unsloth is imported."""
    from unsloth_zoo.vllm_utils import patch_vllm

    # Unsloth replaces classes in modules of vLLM that others copy them from: it has to be first (unsloth/models/loader.py:279).
    patch_vllm()
    if taken("inspection"):
        inspect_in_process()
    if taken("loopback"):
        stay_on_this_machine()
    if taken("swap"):
        pin_in_parallel()
    if taken("map_ahead"):
        map_weights_ahead()
    if taken("warm_up"):
        warm_up_once()
    if taken("blocks"):
        make_blocks_when_needed()
    capture_lightly()
    if taken("collector"):
        settle_engine()
