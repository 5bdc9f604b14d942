"""torch's CUDA allocator as it is where nobody sets it: a large block may be larger than what was asked for.

torch 2.5.1, c10/cuda/CUDACachingAllocator.cpp without PYTORCH_CUDA_ALLOC_CONF: a request above 1 MiB is taken from the smallest free
block that holds it, or from a new segment; what is left of that block is split off only where it is more than 1 MiB (should_split), and
counts as taken otherwise. With expandable segments, or of requests of at most 1 MiB, nothing is left over.
"""

from __future__ import annotations

from dataclasses import dataclass

from loadcheck.units import MIB, round_up

MIN_BLOCK_BYTES = 512
SMALL_BYTES = MIB
"""Up to so many bytes a request comes from the small pool, where each rest is split off (kSmallSize)."""
LARGE_SEGMENT_BYTES = 20 * MIB
MIN_LARGE_BYTES = 10 * MIB
SEGMENT_STEP_BYTES = 2 * MIB
"""Segments of requests below 10 MiB, and the multiple that those of larger ones are of (kLargeBuffer, kMinLargeAlloc, kRoundLarge)."""


@dataclass(slots=True, eq=False)
class Block:
    """A part of a segment."""

    num_bytes: int
    free: bool = False


class Allocator:
    """What the allocator counts for a sequence of requests. Of the small pool only the sum is followed."""

    def __init__(self) -> None:
        self._segments: list[list[Block]] = []
        self.allocated_bytes = 0

    def take(self, num_bytes: int) -> Block:
        """A block for so many bytes."""
        wanted = round_up(num_bytes, MIN_BLOCK_BYTES)
        block = Block(wanted) if wanted <= SMALL_BYTES else self._large(wanted)
        self.allocated_bytes += block.num_bytes
        return block

    def give(self, block: Block) -> None:
        """Free a block, and make one of it and its free neighbours."""
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
        segment[:] = [each for each in segment if each.num_bytes]

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


def exact(num_bytes: int) -> int:
    """What a tensor takes where nothing is left over."""
    return round_up(num_bytes, MIN_BLOCK_BYTES)


def fresh(num_bytes: int) -> int:
    """What a tensor takes in a segment of its own: with a rest of up to 1 MiB, which is not split off."""
    wanted = exact(num_bytes)
    if wanted < MIN_LARGE_BYTES:
        return wanted
    rest = -wanted % SEGMENT_STEP_BYTES
    return wanted + (rest if rest <= SMALL_BYTES else 0)
