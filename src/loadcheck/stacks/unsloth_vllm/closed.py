"""A load opens no port, and changes nothing of the machine: what torch and unsloth would do by default, and what is done in its place.

Unlike the measures of `startup`, none of these can be left out.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

NO_SHELL = 127
"""What a shell says of a command that is not there."""


@contextmanager
def no_shell() -> Iterator[None]:
    """Import unsloth without the commands that it would run as it finds fit.

    Where Triton finds no libcuda.so.1, unsloth runs `ldconfig FOLDER`, which as root changes what every program of the machine links to
    (unsloth/__init__.py:152-172), and `pip install --upgrade` where unsloth_zoo is older than it likes (:200-206). It goes on after either
    fails, and says what the user can do.
    """
    system = os.system
    os.system = lambda command: NO_SHELL  # noqa: ARG005
    try:
        yield
    finally:
        os.system = system


def keep_store_in_process(distributed: Any) -> None:
    """Have `distributed`, torch's module, keep the store of a group of one process in memory.

    vLLM hands torch an address of this machine (vllm/executor/uniproc_executor.py:28), but torch's store listens on every interface whatever
    the address is (torch/csrc/distributed/c10d/TCPStore.cpp: the daemon gets a port and no host), without a password.
    """
    start = distributed.init_process_group

    def alone(*arguments: Any, **named: Any) -> None:
        if named.get("world_size") == 1 and str(named.get("init_method")).startswith("tcp://"):
            del named["init_method"]
            named["store"] = distributed.HashStore()
        start(*arguments, **named)

    distributed.init_process_group = alone
