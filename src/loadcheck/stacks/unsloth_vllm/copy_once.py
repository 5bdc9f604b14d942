"""Lets vLLM copy each weight to the device once, not twice.

vLLM iterates over a bitsandbytes checkpoint twice, first only for the quantization states (vllm/model_executor/model_loader/loader.py:900-945), and
does so with the device as torch's default (loader.py:1223-1226). safetensors makes each tensor with torch.asarray (safetensors 0.5.2,
bindings/python/src/lib.rs: get_tensor), which then copies it there: all 5.7 GB of the 8B model in either pass, 0.9 s of 2.0 (py-spy, H200,
2026-11-30). Without the default, a tensor is a view of the mapped file, and only the copy into its parameter reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

Weights = Iterator[tuple[str, Any]]


def copy_once(iterate: Callable[[list[str]], Weights]) -> Callable[[list[str]], Weights]:
    """Wrap vLLM's iterator over the tensors of safetensors files: tensors stay on the CPU, whatever torch's default device is."""

    def on_the_cpu(files: list[str]) -> Weights:
        from torch._C import (
            DisableTorchFunction,  # a nested default device would lose to the outer one (torch/utils/_device.py:36-52)
        )

        weights = iterate(files)
        while True:
            with DisableTorchFunction():
                found = next(weights, None)
            if found is None:
                return
            yield found

    return on_the_cpu
