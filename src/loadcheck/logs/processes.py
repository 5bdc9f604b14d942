"""Which process of a load on several cards is judged, and how far the others came."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from loadcheck.logs.attempt import Attempt
from loadcheck.logs.formats import LineFormat
from loadcheck.logs.prefixes import CORE, LEFT_OUT, Rank


class Processes:
    """The processes that a log's lines name. All print the same lines, and those of one make the load.

    Attributes:
        ready_cores: the engine cores, by their ranks in data parallelism, that printed the end of their start.
        has_actors: whether the log names an engine core of Ray's, perhaps on a line without a figure.
        ready_actors: the same of Ray's, by their processes; the process of a line that Ray left out for others is here as often.
    """

    def __init__(self, first: Mapping[str, int]) -> None:
        """Args:
        first: the number of the judged process in each kind of parallelism, where it is not 0.
        """
        self.ready_cores: set[int] = set()
        self.has_actors = False
        self.ready_actors: list[Rank] = []
        self._first = first
        self._lowest: dict[str, int] = {}
        """The lowest number in each kind of parallelism."""
        self._actor: Rank | None = None
        self._printed_by: dict[str, Rank] = {}
        """By format, which of Ray's engine cores printed the line that counts."""

    @property
    def lowest(self) -> Mapping[str, int]:
        """The lowest number of an engine core; without cores, that of each kind of parallelism."""
        return {CORE: self._lowest[CORE]} if CORE in self._lowest else self._lowest

    def is_judged(self, rank: Rank, format: LineFormat, attempts: Sequence[Attempt]) -> bool:
        """Whether a line of this process counts. The other ranks print the same lines, which are no second load.

        Ray's processes do not say their ranks, so each of their lines counts once, whichever prints it first.
        """
        for kind, number in rank.numbers:
            self._lowest[kind] = min(number, self._lowest.get(kind, number))
        if rank.is_actor and self._actor in (None, rank):
            self._actor = rank
            return self._printed_by.setdefault(format.name, rank) == rank
        if all(number == self._first.get(kind, 0) for kind, number in rank.numbers):
            return True
        return bool(attempts) and self._is_first_of_ray(rank, format, attempts[-1])

    def _is_first_of_ray(self, rank: Rank, format: LineFormat, attempt: Attempt) -> bool:
        """Whether a process of Ray's is the first to print a line of V1's; the attempt notes the process as another one."""
        attempt.other_ranks.add(str(rank))
        engine = attempt.reading("engine") if rank.is_of_ray else None
        is_first = engine is not None and engine.value == "V1" and not attempt.formats[format.name]
        if is_first and rank.is_actor:
            self._printed_by[format.name] = rank
        return is_first

    def note_ready(self, rank: Rank, text: str, position: int) -> None:
        """Note which engine core printed the end of its start, at `position`, and for how many others Ray left that line out."""
        self.ready_cores |= {number for kind, number in rank.numbers if kind == CORE}
        if rank.is_actor:
            left_out = LEFT_OUT.search(text, position)
            self.ready_actors += [rank] * (1 if left_out is None else int(left_out["times"]))
