"""A memory figure as a tree of named terms that sum."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Term:
    """One named amount of memory, and the source of its formula.

    Attributes:
        num_bytes: as the allocator counts it; with parts, their sum.
        source: upstream file:line at the pinned version, or the run that a constant was measured in.
    """

    name: str
    num_bytes: int
    source: str = ""
    parts: tuple[Term, ...] = ()

    def walk(self, depth: int = 0) -> Iterator[tuple[int, Term]]:
        """Yield (depth, term) for this term and everything below it."""
        yield depth, self
        for part in self.parts:
            yield from part.walk(depth + 1)

    def to_json(self) -> dict[str, Any]:
        data: dict[str, Any] = {"name": self.name, "bytes": self.num_bytes, "source": self.source}
        return data | {"parts": [part.to_json() for part in self.parts]} if self.parts else data


def total(name: str, parts: Iterable[Term], source: str = "") -> Term:
    """The sum of `parts` as a term; empty parts are left out."""
    kept = tuple(part for part in parts if part.num_bytes)
    return Term(name, sum(part.num_bytes for part in kept), source, kept)
