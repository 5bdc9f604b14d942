"""What a load changes in vLLM before its engine starts: the same results with less work, one function for each measure of startup.py."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from functools import wraps
from typing import Any

from loadcheck.stacks.unsloth_vllm import startup, unused
from loadcheck.stacks.unsloth_vllm.copy_once import copy_once
from loadcheck.stacks.unsloth_vllm.map_ahead import map_ahead

ALLOCATOR = "expandable_segments:True,roundup_power2_divisions:[32:256,64:128,256:64,>:32]"
"""The allocator configuration that unsloth sets (unsloth/__init__.py:47-50)."""

_PIN_THREADS = 16  # the number of cores beside the cards that this was measured on; torch accepts powers of two
_BLOCKS = 1024  # more than one sequence of the reference run uses


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
        startup.freeze_objects()
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
            startup.freeze_objects()
        finally:
            gc.enable()

    llm_engine.LLMEngine._initialize_kv_caches = initialize_then_pause
    llm_engine.LLMEngine.__init__ = init_then_freeze


PATCHES: dict[str, tuple[Callable[[], None], ...]] = {
    "unused": (find_configs_by_name,),
    "inspection": (inspect_in_process,),
    "loopback": (stay_on_this_machine,),
    "swap": (pin_in_parallel,),
    "copy_once": (copy_weights_once,),
    "map_ahead": (map_weights_ahead,),  # after copy_once, whose tensors it needs
    "pageable": (keep_adapters_pageable,),
    "warm_up": (warm_up_once,),
    "blocks": (make_blocks_when_needed,),
    "collector": (freeze_before_capture, freeze_engine),
}


def patch() -> None:
    """Apply the enabled measures that change vLLM; after unsloth was imported."""
    from unsloth_zoo.vllm_utils import patch_vllm

    # Must come first: unsloth replaces classes in vLLM modules from which other modules import them (unsloth/models/loader.py:279).
    patch_vllm()
    for measure, changes in PATCHES.items():
        if startup.enabled(measure):
            for change in changes:
                change()
