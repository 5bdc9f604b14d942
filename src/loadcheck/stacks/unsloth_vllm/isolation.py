"""A load opens no port and does not change the machine: replacements for what torch and unsloth do by default.

Unlike the measures in `startup`, these cannot be disabled.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

NO_SHELL = 127
"""The exit code of a shell that does not find the command."""


@contextmanager
def no_shell() -> Iterator[None]:
    """Import unsloth without running the shell commands that its import may start.

    Where Triton finds no libcuda.so.1, unsloth runs `ldconfig FOLDER`, which as root changes what every program on the machine links to
    (unsloth/__init__.py:152-172), and `pip install --upgrade` where unsloth_zoo is too old for it (:200-206). It continues after either
    fails, and tells the user what to do.
    """
    system = os.system
    os.system = lambda command: NO_SHELL  # noqa: ARG005
    try:
        yield
    finally:
        os.system = system


def keep_store_in_process(distributed: Any) -> None:
    """Have `distributed`, which is torch.distributed, keep the store of a single-process group in memory.

    vLLM passes torch a local address (vllm/executor/uniproc_executor.py:28), but torch's store listens on every interface whatever the
    address is (torch/csrc/distributed/c10d/TCPStore.cpp: the daemon is given a port and no host), without a password.
    """
    start = distributed.init_process_group

    def alone(*arguments: Any, **named: Any) -> None:
        if named.get("world_size") == 1 and str(named.get("init_method")).startswith("tcp://"):
            del named["init_method"]
            named["store"] = distributed.HashStore()
        start(*arguments, **named)

    distributed.init_process_group = alone
