"""How torch's CUDA allocator counts a tensor: the size that a request is rounded to.

torch 2.5.1, c10/cuda/CUDACachingAllocator.cpp (round_size, roundup_power2_next_division) under the setting that unsloth
makes at import (unsloth/__init__.py:49-51 at 2025.2.5):
expandable_segments:True,roundup_power2_divisions:[32:256,64:128,256:64,>:32].
"""

from __future__ import annotations

from loadcheck.units import MIB, round_up

MIN_BLOCK_BYTES = 512
# (interval begins at, divisions of the power of two below a size): read back from the installed library. The entry for
# 256 MiB is overwritten by ">:32", and 128 MiB has none, so sizes there are rounded to 512 bytes alone.
_DIVISIONS = ((256 * MIB, 32), (128 * MIB, 0), (64 * MIB, 128), (0, 256))


def rounded(num_bytes: int) -> int:
    """Bytes that the allocator counts for a tensor of `num_bytes`; 0 for an empty one."""
    if num_bytes == 0:
        return 0
    divisions = _divisions(num_bytes)
    if divisions and num_bytes > MIN_BLOCK_BYTES * divisions:
        return round_up(num_bytes, (1 << (num_bytes.bit_length() - 1)) // divisions)
    return round_up(num_bytes, MIN_BLOCK_BYTES)


def _divisions(num_bytes: int) -> int:
    for begin, divisions in _DIVISIONS:
        if num_bytes >= begin:
            return divisions
    return 0
