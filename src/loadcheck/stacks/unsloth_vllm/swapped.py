"""vLLM's swap space, pinned on another thread once the graphs are captured: 1.2 s for 6 GiB (H200, 2026-11-29) that Python need not wait for.

Not before: what is pinned takes pages of the device, too, and no memory may be registered while a graph is recorded. It is there, and its
error is said, by the time that the load is said to be done.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any


class Aside:
    """A list of tensors that is made on another thread; who looks into it waits for it, and gets the error where it has failed."""

    def __init__(self, make: Callable[[], list[Any]]) -> None:
        self._make = make
        self._made: list[Any] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def begin(self) -> None:
        if self._thread.ident is None:
            self._thread.start()

    def wait(self) -> list[Any]:
        self.begin()
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._made

    def __getitem__(self, index: int) -> Any:
        return self.wait()[index]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.wait())

    def __len__(self) -> int:
        return len(self.wait())

    def _run(self) -> None:
        try:
            self._made = self._make()
        except BaseException as error:  # raised again where it is waited for
            self._error = error


def pin_aside() -> None:
    """Have vLLM's workers go on while the host's side of their cache is made (vllm/worker/cache_engine.py:72, worker.py:285-307)."""
    from vllm.worker import cache_engine, worker

    allocate = cache_engine.CacheEngine._allocate_kv_cache
    warm_up = worker.Worker._warm_up_model

    def allocate_aside(self: Any, num_blocks: int, device: str) -> Any:
        if device != "cpu":
            return allocate(self, num_blocks, device)
        return Aside(lambda: allocate(self, num_blocks, device))

    def warm_up_first(self: Any) -> None:
        warm_up(self)
        for each in _asides(self):
            each.begin()

    cache_engine.CacheEngine._allocate_kv_cache = allocate_aside
    worker.Worker._warm_up_model = warm_up_first


def wait_for_swap(worker: Any) -> None:
    """Wait until the host's side of this worker's cache is there; raises what kept it from being made."""
    for each in _asides(worker):
        each.wait()


def _asides(worker: Any) -> list[Aside]:
    return [engine.cpu_cache for engine in worker.cache_engine if isinstance(engine.cpu_cache, Aside)]
