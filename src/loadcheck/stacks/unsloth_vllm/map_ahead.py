"""Maps the pages of the weights' file in other threads while vLLM copies one tensor after another to the device.

It needs copy_once.py, without which the weights that vLLM receives are on the device already.

safetensors maps the file (safetensors 0.5.2, bindings/python/src/lib.rs: Open), so the first access to each page interrupts the copy, even
if the page is in memory: 1.2 s for 5.7 GB. Mapping them all at once takes 0.4 s of another core (2 cores, no GPU, 2026-11-29).
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

_POPULATE_READ = 22
"""MADV_POPULATE_READ, linux/mman.h, since Linux 5.14. Older kernels reject it, and pages are mapped one by one."""
_CHUNK_BYTES = 64 * 2**20
_THREADS = 4
_COPIED_S = 0.002
"""A longer step was a copy: vLLM first iterates over all names without reading a weight (vllm/model_executor/model_loader/loader.py:862-890)."""

Weights = Iterator[tuple[str, Any]]


def map_ahead(iterate: Callable[[list[str]], Weights]) -> Callable[[list[str]], Weights]:
    """Wrap vLLM's iterator over the tensors of safetensors files: once one tensor of a file is copied, the rest of that file is mapped."""

    def mapped(files: list[str]) -> Weights:
        known = range(0)
        for name, tensor in iterate(files):
            begin_s = time.monotonic()
            yield name, tensor
            if time.monotonic() - begin_s > _COPIED_S and tensor.data_ptr() not in known:
                known = mapping_of(tensor.data_ptr())
                map_in_background(known)

    return mapped


def mapping_of(address: int) -> range:
    """The mapping of this process that contains an address; only the address itself where there is none (Linux, proc_pid_maps(5))."""
    for line in Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines():
        begin, _, end = line.split(" ", 1)[0].partition("-")
        found = range(int(begin, 16), int(end, 16))
        if address in found:
            return found
    return range(address, address + 1)


def map_in_background(mapping: range) -> list[threading.Thread]:
    """Map the pages of a mapping, in order, in a few threads. It is no error if the mapping disappears meanwhile."""
    chunks = iter(range(mapping.start & -os.sysconf("SC_PAGE_SIZE"), mapping.stop, _CHUNK_BYTES))
    lock, madvise = threading.Lock(), ctypes.CDLL(None).madvise
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)

    def work() -> None:
        while True:
            with lock:
                begin = next(chunks, None)
            if begin is None or madvise(begin, min(_CHUNK_BYTES, mapping.stop - begin), _POPULATE_READ):
                return

    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(_THREADS, len(os.sched_getaffinity(0))))]
    for thread in threads:
        thread.start()
    return threads
