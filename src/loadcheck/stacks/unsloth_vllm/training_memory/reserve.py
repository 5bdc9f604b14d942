"""What torch's allocator reserves on the card: the blocks that it hands out, and the gaps between them.

torch 2.5.1, c10/cuda/CUDACachingAllocator.cpp with expandable segments, which unsloth turns on (unsloth/__init__.py:49-51): two pools, each
one range of addresses that is mapped in whole pages. A request takes the smallest free block that holds it (get_free_block); the remainder
stays free, and adjacent free blocks are merged (try_merge_blocks).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass

from loadcheck.stacks.unsloth_vllm.training_memory.ledger import Event
from loadcheck.units import MIB, round_up

SMALL_BYTES = MIB
"""Blocks up to this size come from the small pool (kSmallSize)."""
SMALL_PAGE_BYTES = 2 * MIB
LARGE_PAGE_BYTES = 20 * MIB
"""The steps by which an expandable segment grows (kSmallBuffer, kLargeBuffer)."""
ADDRESS_SPACE_BYTES = 1 << 50
"""The addresses of a segment: more than the memory of any card."""


class _Block:
    """A range of addresses between its neighbours: in use, free, or free and unmapped."""

    __slots__ = ("address", "free", "mapped", "next", "num_bytes", "previous")

    def __init__(
        self, address: int, num_bytes: int, previous: _Block | None, next_: _Block | None, mapped: bool = True
    ) -> None:
        self.address, self.num_bytes, self.free, self.mapped = address, num_bytes, True, mapped
        self.previous, self.next = previous, next_

    @property
    def growable_bytes(self) -> int:
        """Its size together with the unmapped addresses after it."""
        following = self.next
        return self.num_bytes + (following.num_bytes if following is not None and not following.mapped else 0)


class _Pool:
    """One expandable segment."""

    def __init__(self, page_bytes: int) -> None:
        self._page_bytes = page_bytes
        self.reserved_bytes = 0
        self._free: list[tuple[int, int]] = []
        """(bytes, address) of the free mapped blocks, sorted."""
        self._by_address: dict[int, _Block] = {}
        self._unmapped = [_Block(0, ADDRESS_SPACE_BYTES, None, None, mapped=False)]
        """Sorted by address."""

    def find(self, num_bytes: int) -> _Block:
        """A free block of at least this size, mapping new pages if needed."""
        return self._smallest(num_bytes) or self._grown(num_bytes)

    def use(self, block: _Block, num_bytes: int) -> _Block:
        """Take this many bytes of a block; exact, because all sizes are multiples of the smallest block."""
        self._remove(block)
        if block.num_bytes > num_bytes:
            self._insert(_split(block, num_bytes))
        block.free = False
        return block

    def _smallest(self, num_bytes: int) -> _Block | None:
        """The smallest free block that holds it; one that can still grow is left for larger requests (get_free_block)."""
        index = bisect_left(self._free, (num_bytes, -1))
        if index == len(self._free):
            return None
        block = self._by_address[self._free[index][1]]
        for _, address in self._free[index + 1 :]:
            larger = self._by_address[address]
            if larger.growable_bytes >= block.growable_bytes:
                break
            block = larger
        return block

    def _grown(self, num_bytes: int) -> _Block:
        """Map pages at the lowest free addresses that suffice, extending a free block before them (try_allocate_expandable_block)."""
        block = next(found for block in self._unmapped if (found := _first_of(block, num_bytes)) is not None)
        if not block.mapped:
            block = self._map(block, min(block.num_bytes, num_bytes))
        while block.num_bytes < num_bytes:
            assert block.next is not None
            block = self._map(block.next, min(num_bytes - block.num_bytes, block.next.num_bytes))
        return block

    def _map(self, block: _Block, num_bytes: int) -> _Block:
        """Map the first pages of a block; returns the free block that they form with their neighbours."""
        pages = round_up(num_bytes, self._page_bytes)
        self._unmapped.remove(block)
        if block.num_bytes > pages:
            insort(self._unmapped, _split(block, pages), key=lambda block: block.address)
        block.mapped = True
        self.reserved_bytes += block.num_bytes
        return self._join_free(block)

    def release(self, block: _Block) -> None:
        """Free a block and merge it with its free neighbours."""
        block.free = True
        self._join_free(block)

    def _join_free(self, block: _Block) -> _Block:
        previous, following = block.previous, block.next
        if previous is not None and previous.free and previous.mapped:
            self._remove(previous)
            block = _join(previous, block)
        if following is not None and following.free and following.mapped:
            self._remove(following)
            block = _join(block, following)
        self._insert(block)
        return block

    def trim(self) -> None:
        """empty_cache: unmap every whole page that is free (unmap_block)."""
        for _, address in list(self._free):
            block = self._by_address[address]
            start = round_up(block.address, self._page_bytes)
            end = (block.address + block.num_bytes) // self._page_bytes * self._page_bytes
            if end > start:
                self._unmap(block, start, end)

    def _unmap(self, block: _Block, start: int, end: int) -> None:
        self._remove(block)
        if end < block.address + block.num_bytes:
            self._insert(_split(block, end - block.address))
        if start > block.address:
            head, block = block, _split(block, start - block.address)
            self._insert(head)
        block.mapped = False
        self.reserved_bytes -= block.num_bytes
        previous, following = block.previous, block.next
        if previous is not None and not previous.mapped:
            self._unmapped.remove(previous)
            block = _join(previous, block)
        if following is not None and not following.mapped:
            self._unmapped.remove(following)
            block = _join(block, following)
        insort(self._unmapped, block, key=lambda block: block.address)

    def _insert(self, block: _Block) -> None:
        insort(self._free, (block.num_bytes, block.address))
        self._by_address[block.address] = block

    def _remove(self, block: _Block) -> None:
        del self._free[bisect_left(self._free, (block.num_bytes, block.address))]
        del self._by_address[block.address]


def _split(block: _Block, num_bytes: int) -> _Block:
    """Shorten a block to this size; returns the remainder, which is free."""
    rest = _Block(block.address + num_bytes, block.num_bytes - num_bytes, block, block.next, block.mapped)
    if block.next is not None:
        block.next.previous = rest
    block.next, block.num_bytes = rest, num_bytes
    return rest


def _join(first: _Block, second: _Block) -> _Block:
    first.num_bytes += second.num_bytes
    first.next = second.next
    if second.next is not None:
        second.next.previous = first
    return first


def _first_of(unmapped: _Block, num_bytes: int) -> _Block | None:
    """The first block of a free range of this size, made of this one, the free block before it and those after; None if it is too short."""
    previous = unmapped.previous
    first = previous if previous is not None and previous.free else unmapped
    found = 0
    block: _Block | None = first
    while found < num_bytes and block is not None and block.free:
        found, block = found + block.num_bytes, block.next
    return first if found >= num_bytes else None


@dataclass(frozen=True, slots=True)
class Reserved:
    """What torch reserves during a training.

    Attributes:
        before_bytes: the peak before the first step.
        steps_bytes: the peak from then on.
        short_bytes: what is missing for the first request that finally fails; 0 where all are served.
    """

    before_bytes: int
    steps_bytes: int
    short_bytes: int = 0


class _OutOfMemoryError(Exception):
    def __init__(self, short_bytes: int) -> None:
        self.short_bytes = short_bytes
        super().__init__(short_bytes)


class _Allocator:
    """Both pools, with a limit on their sum; None for no limit."""

    def __init__(self, limit_bytes: int | None) -> None:
        self._limit_bytes = limit_bytes
        self._small, self._large = _Pool(SMALL_PAGE_BYTES), _Pool(LARGE_PAGE_BYTES)

    @property
    def reserved_bytes(self) -> int:
        return self._small.reserved_bytes + self._large.reserved_bytes

    def pool(self, num_bytes: int) -> _Pool:
        return self._small if num_bytes <= SMALL_BYTES else self._large

    def allocate(self, num_bytes: int) -> _Block:
        """A block of a pool; if the card is full, all free whole pages are released first (release_cached_blocks)."""
        pool = self.pool(num_bytes)
        block = pool.find(num_bytes)
        if self._excess_bytes() > 0:
            self.trim()
            block = pool.find(num_bytes)
            if (short_bytes := self._excess_bytes()) > 0:
                raise _OutOfMemoryError(short_bytes)
        return pool.use(block, num_bytes)

    def _excess_bytes(self) -> int:
        return 0 if self._limit_bytes is None else self.reserved_bytes - self._limit_bytes

    def trim(self) -> None:
        self._small.trim()
        self._large.trim()


def reserve(
    loaded: Sequence[int], events: Sequence[Event], emptied_at: int, limit_bytes: int | None = None
) -> Reserved:
    """What is reserved for blocks of `loaded` bytes, which stay, and then for the events of a training.

    The cache is emptied before the event with index `emptied_at`, as the trainer does before its first step
    (accelerate/accelerator.py: free_memory). Within 0.5 % of every measured peak (tests/sweeps/test_train_truth.py). With `limit_bytes` it
    ends at the request that the card cannot serve: on an H200 that was filled except for 23.5 GiB the same request, of 4.50 GiB, ended
    GRPO of 9 × 8 rows, and 8 × 8 ran (driver 580.159.04, 2026-11-29, commit e428a97).
    """
    allocator, held = _Allocator(limit_bytes), dict[int, _Block]()
    before_bytes = 0
    try:
        for num_bytes in loaded:
            allocator.allocate(num_bytes)
        before_bytes = _replay(allocator, held, events[:emptied_at])
        allocator.trim()
        return Reserved(before_bytes, _replay(allocator, held, events[emptied_at:]))
    except _OutOfMemoryError as error:
        return Reserved(before_bytes, allocator.reserved_bytes, error.short_bytes)


def _replay(allocator: _Allocator, held: dict[int, _Block], events: Sequence[Event]) -> int:
    """What is reserved at the end, which is also the peak, because pools do not shrink by themselves."""
    for event in events:
        if event.num_bytes > 0:
            held[event.number] = allocator.allocate(event.num_bytes)
        else:
            allocator.pool(-event.num_bytes).release(held.pop(event.number))
    return allocator.reserved_bytes
