"""What torch's CUDA allocator holds, event by event, and what was alive at the peak."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from functools import lru_cache
from itertools import count, islice
from typing import Literal, NamedTuple

from loadcheck.predict.terms import Term, total
from loadcheck.stacks.unsloth_vllm.allocator import rounded

_rounded = lru_cache(maxsize=4096)(rounded)


Kind = Literal["weights", "adapters", "logits", "activations", "gradients", "optimizer", "dequantized weights", "batch"]
"""What memory is used for. The largest kind except weights is what limits a training."""


@dataclass(frozen=True, slots=True)
class Label:
    """A tensor's name in the terms, the upstream line (file:line at the pinned version) that creates it, and its kind."""

    name: str
    source: str
    kind: Kind = "activations"


class Event(NamedTuple):
    """A block that is allocated (bytes above 0) or freed (below 0); `number` identifies the block."""

    number: int
    num_bytes: int
    label: Label


class Storage:
    """A block of device memory, from its allocation until nothing references it any more.

    CPython frees an object with its last reference, as torch does with a tensor; so these functions, which have the upstream
    functions' own local variables, free their tensors at the same lines.
    """

    __slots__ = ("_label", "_ledger", "_number", "num_bytes")

    def __init__(self, ledger: Ledger, number: int, num_bytes: int, label: Label) -> None:
        self.num_bytes = _rounded(num_bytes)
        self._ledger, self._number, self._label = ledger, number, label
        ledger.count(Event(number, self.num_bytes, label))

    def __del__(self) -> None:
        self._ledger.count(Event(self._number, -self.num_bytes, self._label))


class Ledger:
    """The bytes that are held now, and at the peak since the last `start_phase(..., reset_peak=True)`."""

    def __init__(self) -> None:
        self.held_bytes = 0
        self.peak_bytes = 0
        self._phase = self._peak_phase = ""
        self.events: list[Event] = []
        self._peak_at = 0
        self._numbers = count()

    def allocate(self, num_bytes: int, label: Label) -> Storage:
        return Storage(self, next(self._numbers), num_bytes, label)

    def count(self, event: Event) -> None:
        self.held_bytes += event.num_bytes
        self.events.append(event)
        if self.held_bytes > self.peak_bytes:
            self.peak_bytes, self._peak_at, self._peak_phase = self.held_bytes, len(self.events), self._phase

    def start_phase(self, phase: str, reset_peak: bool = False) -> None:
        """Name what follows, and optionally forget the peak so far."""
        self._phase = phase
        if reset_peak:
            self.peak_bytes = 0

    def peak(self) -> Term:
        """What was alive at the peak: by kind, then by name, largest first; named after the phase of the peak."""
        return self._alive(self._peak_at, self._peak_phase)

    def now(self) -> Term:
        """The same for what is alive now."""
        return self._alive(len(self.events), self._phase)

    def _alive(self, num_events: int, name: str) -> Term:
        sums: dict[int, int] = defaultdict(int)
        labels: dict[int, Label] = {}
        for event in islice(self.events, num_events):
            key = id(
                event.label
            )  # one label is in tens of thousands of events, and its hash takes longer than all else here
            labels[key] = event.label
            sums[key] += event.num_bytes
        alive: Counter[Label] = Counter()
        for key, num_bytes in sums.items():
            alive[labels[key]] += num_bytes
        kinds: dict[Kind, list[Term]] = defaultdict(list)
        for label, num_bytes in alive.most_common():
            kinds[label.kind].append(Term(label.name, num_bytes, label.source))
        parts = sorted((total(kind, terms) for kind, terms in kinds.items()), key=lambda term: -term.num_bytes)
        return total(name, parts)
