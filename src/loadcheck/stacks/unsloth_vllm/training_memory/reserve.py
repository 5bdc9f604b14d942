"""What torch's allocator reserves of the card for what it hands out: the gaps between blocks come on top.

torch 2.5.1, c10/cuda/CUDACachingAllocator.cpp with expandable segments, which unsloth asks for (unsloth/__init__.py:49-51): two pools,
each one range of addresses that grows by whole pages at its end; a request takes the smallest free block that holds it
(get_free_block), the rest of that block stays free, and neighbours that are free become one (try_merge_blocks).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence

from loadcheck.stacks.unsloth_vllm.training_memory.ledger import Event
from loadcheck.units import MIB, round_up

SMALL_BYTES = MIB
"""Up to so many bytes, a block comes from the small pool (kSmallSize)."""
SMALL_PAGE_BYTES = 2 * MIB
LARGE_PAGE_BYTES = 20 * MIB
"""By so many bytes an expandable segment grows (kSmallBuffer, kLargeBuffer)."""


class _Block:
    """A range of addresses, in use or free, between its neighbours."""

    __slots__ = ("address", "before", "behind", "free", "num_bytes")

    def __init__(self, address: int, num_bytes: int, before: _Block | None, behind: _Block | None) -> None:
        self.address, self.num_bytes, self.free = address, num_bytes, True
        self.before, self.behind = before, behind


class _Pool:
    """One expandable segment."""

    def __init__(self, page_bytes: int) -> None:
        self._page_bytes = page_bytes
        self.reserved_bytes = 0
        self._last: _Block | None = None
        self._free: list[tuple[int, int]] = []
        self._by_address: dict[int, _Block] = {}

    def take(self, num_bytes: int) -> _Block:
        """A block of exactly so many bytes, as all sizes are multiples of the smallest block."""
        index = bisect_left(self._free, (num_bytes, -1))
        block = self._by_address[self._free[index][1]] if index < len(self._free) else self._grow(num_bytes)
        self._remove(block)
        if block.num_bytes > num_bytes:
            self._split(block, num_bytes)
        block.free = False
        return block

    def give(self, block: _Block) -> None:
        """Free a block, and make one of it and its free neighbours."""
        block.free = True
        if block.before is not None and block.before.free:
            self._remove(block.before)
            block = self._join(block.before, block)
        if block.behind is not None and block.behind.free:
            self._remove(block.behind)
            self._join(block, block.behind)
        self._insert(block)

    def trim(self) -> None:
        """empty_cache: unmap whole pages that are free at the end. Such pages further in are not looked for."""
        last = self._last
        if last is None or not last.free:
            return
        spare = last.num_bytes - (round_up(last.address, self._page_bytes) - last.address)
        if spare <= 0:
            return
        self._remove(last)
        last.num_bytes -= spare
        self.reserved_bytes -= spare
        if last.num_bytes:
            self._insert(last)
            return
        self._last = last.before
        if self._last is not None:
            self._last.behind = None

    def _grow(self, num_bytes: int) -> _Block:
        """Map whole pages behind the last block; where that is free, no more than it lacks."""
        last = self._last
        have = last.num_bytes if last is not None and last.free else 0
        more = round_up(num_bytes - have, self._page_bytes)
        self.reserved_bytes += more
        if last is not None and last.free:
            self._remove(last)
            last.num_bytes += more
            self._insert(last)
            return last
        block = _Block(0 if last is None else last.address + last.num_bytes, more, last, None)
        if last is not None:
            last.behind = block
        self._last = block
        self._insert(block)
        return block

    def _split(self, block: _Block, num_bytes: int) -> None:
        rest = _Block(block.address + num_bytes, block.num_bytes - num_bytes, block, block.behind)
        if block.behind is not None:
            block.behind.before = rest
        else:
            self._last = rest
        block.behind, block.num_bytes = rest, num_bytes
        self._insert(rest)

    def _join(self, first: _Block, second: _Block) -> _Block:
        first.num_bytes += second.num_bytes
        first.behind = second.behind
        if second.behind is not None:
            second.behind.before = first
        else:
            self._last = first
        return first

    def _insert(self, block: _Block) -> None:
        insort(self._free, (block.num_bytes, block.address))
        self._by_address[block.address] = block

    def _remove(self, block: _Block) -> None:
        del self._free[bisect_left(self._free, (block.num_bytes, block.address))]
        del self._by_address[block.address]


def reserved_peaks(loaded: Sequence[int], events: Sequence[Event], emptied_at: int) -> tuple[int, int]:
    """The most that is reserved for blocks of `loaded` bytes, which stay, and then for the events of a training: before its first step, and
    from then on.

    The cache is emptied before the event number `emptied_at`, as the trainer does before its first step
    (accelerate/accelerator.py: free_memory). Within 0.5 % of every measured peak (tests/test_train_truth.py).
    """
    pools = {True: _Pool(SMALL_PAGE_BYTES), False: _Pool(LARGE_PAGE_BYTES)}
    for num_bytes in loaded:
        pools[num_bytes <= SMALL_BYTES].take(num_bytes)
    held: dict[int, _Block] = {}
    before = _follow(pools, held, events[:emptied_at])
    for pool in pools.values():
        pool.trim()
    return before, _follow(pools, held, events[emptied_at:])


def _follow(pools: dict[bool, _Pool], held: dict[int, _Block], events: Sequence[Event]) -> int:
    """What is reserved in the end, which is the most, as pools do not shrink by themselves."""
    for event in events:
        pool = pools[abs(event.num_bytes) <= SMALL_BYTES]
        if event.num_bytes > 0:
            held[event.number] = pool.take(event.num_bytes)
        else:
            pool.give(held.pop(event.number))
    return sum(pool.reserved_bytes for pool in pools.values())
