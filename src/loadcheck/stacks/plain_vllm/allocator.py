"""torch's CUDA allocator in its default configuration: a large block may be larger than its request.

torch 2.5.1, c10/cuda/CUDACachingAllocator.cpp without PYTORCH_CUDA_ALLOC_CONF: a request above 1 MiB takes the smallest free block that
holds it, or a new segment. The remainder is split off only if it is larger than 1 MiB (should_split); otherwise it counts as allocated.
With expandable segments, or for requests of at most 1 MiB, there is no remainder.
"""

from __future__ import annotations

from dataclasses import dataclass

from loadcheck.units import MIB, round_up

MIN_BLOCK_BYTES = 512
SMALL_BYTES = MIB
"""Requests up to this size come from the small pool, where every remainder is split off (kSmallSize)."""
LARGE_SEGMENT_BYTES = 20 * MIB
MIN_LARGE_BYTES = 10 * MIB
SEGMENT_STEP_BYTES = 2 * MIB
"""The segment of requests below 10 MiB, and the multiple that larger segments are rounded to (kLargeBuffer, kMinLargeAlloc, kRoundLarge)."""


@dataclass(slots=True, eq=False)
class Block:
    """A part of a segment."""

    num_bytes: int
    free: bool = False


class Allocator:
    """The bytes that the allocator counts for a sequence of requests. Of the small pool only the sum is tracked."""

    def __init__(self) -> None:
        self._segments: list[list[Block]] = []
        self.allocated_bytes = 0

    def allocate(self, num_bytes: int) -> Block:
        """A block of at least this size."""
        wanted = round_up(num_bytes, MIN_BLOCK_BYTES)
        block = Block(wanted) if wanted <= SMALL_BYTES else self._large(wanted)
        self.allocated_bytes += block.num_bytes
        return block

    def free(self, block: Block) -> None:
        """Free a block and merge it with its free neighbours."""
        self.allocated_bytes -= block.num_bytes
        block.free = True
        segment = next((segment for segment in self._segments if block in segment), None)
        if segment is None:
            return
        at = segment.index(block)
        for other in (at + 1, at - 1):
            if 0 <= other < len(segment) and segment[other].free:
                block.num_bytes += segment[other].num_bytes
                segment[other].num_bytes = 0
        segment[:] = [block for block in segment if block.num_bytes]

    def _large(self, wanted: int) -> Block:
        fitting = [
            (block.num_bytes, number, at)
            for number, segment in enumerate(self._segments)
            for at, block in enumerate(segment)
            if block.free and block.num_bytes >= wanted
        ]
        if not fitting:
            grown = LARGE_SEGMENT_BYTES if wanted < MIN_LARGE_BYTES else round_up(wanted, SEGMENT_STEP_BYTES)
            self._segments.append([Block(grown, free=True)])
            fitting = [(grown, len(self._segments) - 1, 0)]
        _, number, at = min(fitting)
        block = self._segments[number][at]
        rest = block.num_bytes - wanted
        block.free = False
        if rest > SMALL_BYTES:
            block.num_bytes = wanted
            self._segments[number].insert(at + 1, Block(rest, free=True))
        return block


def tight(num_bytes: int) -> int:
    """The size of a tensor's block without a remainder."""
    return round_up(num_bytes, MIN_BLOCK_BYTES)


def own_segment(num_bytes: int) -> int:
    """The size of a tensor's block in a new segment: including a remainder of up to 1 MiB, which is not split off."""
    wanted = tight(num_bytes)
    if wanted < MIN_LARGE_BYTES:
        return wanted
    rest = -wanted % SEGMENT_STEP_BYTES
    return wanted + (rest if rest <= SMALL_BYTES else 0)
