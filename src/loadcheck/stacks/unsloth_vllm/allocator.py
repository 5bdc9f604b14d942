"""How torch's CUDA allocator counts a tensor: the size that a request is rounded to.

torch 2.5.1, c10/cuda/CUDACachingAllocator.cpp (round_size, roundup_power2_next_division) with the setting that unsloth
makes on import (unsloth/__init__.py:49-51 at 2025.2.5):
expandable_segments:True,roundup_power2_divisions:[32:256,64:128,256:64,>:32].
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache, wraps
from typing import Any, TypeVar, cast

from loadcheck.units import MIB, round_up

MIN_BLOCK_BYTES = 512
# (start of the interval, divisions of the power of two below a size), read back from the installed library. The entry for
# 256 MiB is overwritten by ">:32", and 128 MiB has none, so sizes there are rounded only to 512 bytes.
_DIVISIONS = ((256 * MIB, 32), (128 * MIB, 0), (64 * MIB, 128), (0, 256))


def rounded(num_bytes: int) -> int:
    """The bytes that the allocator counts for a tensor; 0 for an empty one."""
    return 0 if num_bytes == 0 else _rule.get()(num_bytes)


def _round_like_unsloth(num_bytes: int) -> int:
    divisions = _divisions(num_bytes)
    if divisions and num_bytes > MIN_BLOCK_BYTES * divisions:
        return round_up(num_bytes, (1 << (num_bytes.bit_length() - 1)) // divisions)
    return round_up(num_bytes, MIN_BLOCK_BYTES)


Rule = Callable[[int], int]
"""Maps a tensor's bytes to those that the allocator counts."""
_rule: ContextVar[Rule] = ContextVar("rule", default=_round_like_unsloth)


Formula = TypeVar("Formula", bound=Callable[..., Any])


@contextmanager
def rounding_by(rule: Rule) -> Iterator[None]:
    """Round by another rule than unsloth's setting, for a process without it."""
    token = _rule.set(rule)
    try:
        yield
    finally:
        _rule.reset(token)


def cached(maxsize: int) -> Callable[[Formula], Formula]:
    """Cache a formula's results per rounding rule: a search for settings needs the same ones hundreds of times."""

    def decorate(formula: Formula) -> Formula:
        @lru_cache(maxsize=maxsize)
        def by_rule(_active: Rule, *args: Hashable) -> Any:
            return formula(*args)

        @wraps(formula)
        def with_active_rule(*args: Hashable) -> Any:
            return by_rule(_rule.get(), *args)

        return cast(Formula, with_active_rule)

    return decorate


def _divisions(num_bytes: int) -> int:
    for begin, divisions in _DIVISIONS:
        if num_bytes >= begin:
            return divisions
    return 0
