"""Compile vLLM's LoRA kernels in other processes while the engine imports: python -m loadcheck.stacks.unsloth_vllm.kernels SIZES

With an empty Triton cache, as in a new container, vLLM's profile run stops for each of eight kernels until Triton has compiled it:
5.7 of 33 s (H200, cold, 2026-11-29). This module calls vLLM's own functions (vllm/lora/ops/triton_ops) on CPU tensors of the load's
sizes, with a Triton driver that compiles but launches nothing. The results are cached under the key that the load looks up: the source,
the arguments' types, and which of them are 1 or multiples of 16 (triton/runtime/jit.py:597-610, triton/compiler/compiler.py:104-110,
243-245). A kernel that the load does not find there is compiled as usual.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from loadcheck.stacks.unsloth_vllm.kernel_compiler import Sizes
from loadcheck.stacks.unsloth_vllm.quantization import MERGED_LINEARS

OPS = "vllm.lora.ops.triton_ops"
TOKENS = 512
"""The tokens in a batch. Any other number gives the same kernels if the rank is a multiple of 16: it is only part of strides (punica_gpu.py:236-243)."""
EXTRA_VOCAB = 256
"""Both lora_extra_vocab_size and lora_vocab_padding_size (vllm/config.py:1969-1977)."""

PROCESSES = 12
"""The most processes: one for each kernel, and one for the module that Triton's driver compiles for itself."""
_PR_SET_PDEATHSIG = 1  # linux/prctl.h

Call = Callable[[], object]


# ------------------------------------------------------------------------------------------------------------------- the calls


def import_operators() -> dict[str, Any]:
    """vLLM's modules of the kernels, without importing vLLM: empty packages stand in for theirs, and no operator is registered with torch."""
    spec = find_spec("vllm")
    assert spec is not None and spec.submodule_search_locations
    folder = Path(spec.submodule_search_locations[0])
    parts = OPS.split(".")
    for number in range(1, len(parts) + 1):
        package = ModuleType(".".join(parts[:number]))
        package.__path__ = [str(folder.joinpath(*parts[1:number]))]
        sys.modules[package.__name__] = package
    utils: Any = ModuleType("vllm.utils")
    utils.direct_register_custom_op = _not_registered
    sys.modules["vllm.utils"] = utils
    modules = ("sgmv_shrink", "sgmv_expand", "bgmv_shrink", "bgmv_expand", "bgmv_expand_slice")
    return {name: getattr(importlib.import_module(f"{OPS}.{name}"), f"_{name}") for name in modules}


def _not_registered(**_: object) -> None:
    raise AttributeError("not registered")  # as on some platforms; the modules continue (sgmv_shrink.py:190-200)


def calls(operators: dict[str, Any], sizes: Sizes) -> Iterator[tuple[str, Call]]:
    """Every call of the profile run and the capture, with the shapes of vLLM's wrappers (vllm/lora/punica_wrapper/punica_gpu.py).

    Calls of the same name may need the same kernel.
    """
    import torch

    linears, hidden, rank = sizes.linears, sizes.hidden_size, sizes.rank
    dtype = torch.bfloat16 if sizes.capability >= 80 else torch.float16
    indices = torch.empty(TOKENS, dtype=torch.long)
    batch = (indices[:1], indices[:1], indices[:1], 1, TOKENS, TOKENS)
    vocab = -(-(sizes.vocab_size + EXTRA_VOCAB) // EXTRA_VOCAB) * EXTRA_VOCAB

    def weights(*shape: int) -> Any:
        return torch.empty((1, 1, *shape), dtype=dtype)

    def rows(width: int) -> Any:
        return torch.empty((TOKENS, width), dtype=dtype)

    def buffer(*slices: int) -> Any:
        return torch.empty((*slices, TOKENS, rank), dtype=torch.float32)

    def call(name: str, operator: str, *arguments: object) -> tuple[str, Call]:
        return f"{operator} {name}", lambda: operators[operator](*arguments)

    embedding = weights(hidden, rank)
    yield call("embedding", "sgmv_expand", rows(rank).unsqueeze(0), [embedding], rows(hidden), *batch, 0, True)
    for names in MERGED_LINEARS.values():
        size_in, outs = linears[names[0]][0], [linears[name][1] for name in names]
        a, b, count = [weights(rank, size_in) for _ in outs], [weights(size, rank) for size in outs], len(outs)
        yield call(f"{count}", "sgmv_shrink", rows(size_in), a, buffer(count), *batch, 1.0)
        yield call(f"{count}", "sgmv_expand", buffer(count), b, rows(sum(outs)), *batch, 0, True)
    yield call("", "bgmv_shrink", rows(hidden)[:1], weights(rank, hidden), buffer()[:1], indices[:1], 1.0)
    yield call("logits", "bgmv_expand", buffer()[:1], weights(vocab, rank), rows(vocab)[:1], indices[:1], True)
    yield call("embedding", "bgmv_expand", rows(rank), embedding, rows(hidden), indices, True)
    for names in MERGED_LINEARS.values():
        width, start = sum(linears[name][1] for name in names), 0
        for size_in, size_out in (linears[name] for name in names):
            yield call("", "bgmv_shrink", rows(size_in), weights(rank, size_in), buffer(), indices, 1.0)
            yield call("", "bgmv_expand_slice", buffer(), weights(size_out, rank), rows(width), indices, start, size_out, True)  # fmt: skip
            start += size_out


# ------------------------------------------------------------------------------------------------------------------- compiling


def compiling_driver(capability: int) -> Any:
    """A Triton driver for a card of this capability that compiles what a launch needs, but launches nothing."""
    from triton.backends.compiler import GPUTarget
    from triton.backends.nvidia.driver import CudaLauncher

    class Launcher(CudaLauncher):  # type: ignore[misc]
        def __call__(self, *_arguments: object, **_named: object) -> None:
            """By now the kernel and its launcher are compiled; launch nothing."""

    utils = SimpleNamespace(
        get_device_properties=lambda _device: {"max_shared_mem": sys.maxsize},
        load_binary=lambda *_arguments: (None, None, 0, 0),
    )
    return SimpleNamespace(
        get_current_device=lambda: 0,
        get_current_stream=lambda _device: 0,
        get_current_target=lambda: GPUTarget("cuda", capability, 32),
        launcher_cls=Launcher,
        utils=utils,
    )


def compile_utils() -> None:
    """Compile what Triton's driver itself needs when it starts (triton/backends/nvidia/driver.py: CudaUtils)."""
    from triton.backends.nvidia.driver import CudaUtils

    CudaUtils()


def compile_all(sizes: Sizes, processes: int) -> int:
    """Compile all kernels in that many processes, calls of one name in the same; returns how many of them failed."""
    from triton.runtime.driver import driver

    driver.set_active(compiling_driver(sizes.capability))
    work: dict[str, list[Call]] = {"utils": [compile_utils]}
    for name, call in calls(import_operators(), sizes):
        work.setdefault(name, []).append(call)
    groups = list(work.values())
    children = [_forked([call for group in groups[number::processes] for call in group]) for number in range(processes)]
    return sum(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0 for child in children)


def _forked(work: list[Call]) -> int:
    child = os.fork()
    if child:
        return child
    failed = 1
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        for call in work:
            call()
        failed = 0
    finally:
        os._exit(failed)


def main(arguments: list[str]) -> int:
    sizes = Sizes.from_json(arguments[0])
    failed = compile_all(sizes, min(len(os.sched_getaffinity(0)), PROCESSES))
    if not failed:
        sizes.marker.touch()
    return min(failed, 1)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
