"""The faults of a data file, each with its line, all reported at once."""

from __future__ import annotations

from pathlib import Path

from loadcheck.errors import BadInput, Problem

MAX_FAULTS = 100
"""The number of faults that are reported for one file; the others are counted."""


class Faults:
    """Collects the faults of one file."""

    def __init__(self, path: Path | str) -> None:
        self._path = str(path)
        self._problems: list[Problem] = []

    def add(self, line: int | None, what: str, remedy: str, key: str | None = None) -> None:
        """`line` counts from 1; None for the file as a whole."""
        where = self._path if line is None else f"{self._path}:{line}"
        self._problems.append(Problem(where, what, remedy, key))

    def __len__(self) -> int:
        return len(self._problems)

    def problems(self) -> list[Problem]:
        """In the file's order: at most MAX_FAULTS, and one that says how many more there are."""
        more = len(self._problems) - MAX_FAULTS
        if more <= 0:
            return list(self._problems)
        rest = Problem(self._path, f"{more} more are wrong", "fix these first")
        return [*self._problems[:MAX_FAULTS], rest]

    def refuse(self) -> None:
        """BadInput if there are any."""
        if self._problems:
            raise BadInput(self.problems())
