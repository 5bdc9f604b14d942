"""What the process of a load on a GPU has before the libraries are imported: its variables, and one GPU that is its own."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Callable
from functools import cache
from typing import Any

from loadcheck.device import PIN, device_used_reader
from loadcheck.errors import Problem, UnsupportedMachine
from loadcheck.stacks.unsloth_vllm import startup
from loadcheck.stacks.unsloth_vllm.device import check_first_gpu

# The weights are local by now; a load must not depend on a network.
ENVIRONMENT = {
    "UNSLOTH_DISABLE_STATISTICS": "1",  # unsloth/models/_utils.py:604-692 downloads from the hub to be counted
    "VLLM_NO_USAGE_STATS": "1",  # vllm/usage/usage_lib.py:49-68 posts to a server every 10 minutes
    "DO_NOT_TRACK": "1",
    "HF_HUB_ENABLE_HF_TRANSFER": "0",  # unsloth/__init__.py:58 sets 1 where it is not set
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    # unsloth sets these itself on import (unsloth/__init__.py:29-45), but the driver is initialized before that.
    "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    "CUDA_VISIBLE_DEVICES": "0",
}
UNSET = (
    "VLLM_USE_V1",  # unsloth_zoo/vllm_utils.py:387 accesses internals of the V0 engine
    "VLLM_CONFIGURE_LOGGING",  # the log is parsed
    "VLLM_LOGGING_LEVEL",
    "VLLM_PORT",  # two loads that start at once would both take the first free port from it (vllm/utils.py:505-516)
    "UNSLOTH_USE_MODELSCOPE",  # unsloth/models/loader.py:36 would look the directory up on another hub
)
USABLE = (None, "0")
"""Values of CUDA_VISIBLE_DEVICES that work: unsloth_zoo 2025.2.4 asks torch for cuda:<the first entry> (vllm_utils.py:949-953), but torch counts from 0."""


def check_visible_devices() -> None:
    """Refuse values that would fail minutes later with a misleading error."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible not in USABLE:
        what = f"unsloth_zoo 2025.2.4 breaks with {visible!r}"
        remedy = "unset it, or set it to 0; in a container, choose the GPU with --gpus device=N"
        raise UnsupportedMachine(Problem("environment", what, remedy, "CUDA_VISIBLE_DEVICES"))
    check_first_gpu()


def set_environment() -> None:
    """Set the variables that unsloth, vLLM and the hub's client read once, on import."""
    os.environ.update(ENVIRONMENT)
    for name in UNSET:
        os.environ.pop(name, None)


@cache
def query_own_gpu_once() -> None:
    """`query_own_gpu_only`, once per process, whether or not it imports ahead of its plan."""
    query_own_gpu_only()


MEMORY_USED = "nvidia-smi --query-gpu=memory.used --format=csv"
"""The only query of unsloth's (unsloth/models/_utils.py:962, tokenizer_utils.py:860, unsloth_zoo/compiler.py:546)."""


def query_own_gpu_only() -> None:
    """Limit unsloth's nvidia-smi queries to this load's GPU.

    If two GPUs of the host fill up during a load, whoever uses them, unsloth concludes that the load spans both and gives up
    (unsloth/models/llama.py:1741, 1812, 1845-1846; the trainers, too: llama.py:1877-1884, tokenizer_utils.py:988-995).
    Each of the five queries of a load starts a shell and nvidia-smi, 30 to 37 ms (H200, 2026-11-29). With the measure `nvidia_smi` this
    process asks NVML itself; unsloth only uses whether several GPUs have grown by 1 GiB, of which there is one here either way.
    """
    ask, own = subprocess.check_output, shlex.quote(os.environ.get(PIN) or "0")

    @cache
    def reader() -> Callable[[], int | None]:
        return device_used_reader()

    def check_output(command: Any, *arguments: Any, **options: Any) -> Any:
        if command == MEMORY_USED and startup.enabled("nvidia_smi") and (used := reader()()) is not None:
            return f"memory.used [MiB]\n{used >> 20} MiB\n".encode()
        if isinstance(command, str) and command.startswith("nvidia-smi "):
            command += f" --id={own}"
        return ask(command, *arguments, **options)

    setattr(subprocess, "check_output", check_output)  # noqa: B010
