"""The errors that a user can cause or run into, each with its exit code.

LoadcheckError
├── BadInput        2   a file, key, flag or value is wrong; lists every problem of the input at once
└── UnsupportedMachine   3   the input is right, but this machine cannot do it
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

EXIT_PASS = 0
EXIT_FAIL = 1
EXIT_BAD_INPUT = 2
EXIT_MACHINE = 3


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: where, in which key, what, and how to fix it."""

    where: str
    what: str
    remedy: str
    key: str | None = None

    def __str__(self) -> str:
        place = self.where if self.key is None else f"{self.where}: {self.key}"
        return f"{place}: {self.what}; {self.remedy}"


class LoadcheckError(Exception):
    """An error to show without a traceback; `problems` holds one line each."""

    exit_code = EXIT_BAD_INPUT

    def __init__(self, problems: Problem | Iterable[Problem]) -> None:
        self.problems: tuple[Problem, ...] = (problems,) if isinstance(problems, Problem) else tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class BadInput(LoadcheckError):  # noqa: N818: it names what happened
    """A file, key, flag or value is wrong."""


class UnsupportedMachine(LoadcheckError):  # noqa: N818
    """This machine lacks what the input asks for: a GPU, a newer driver, memory."""

    exit_code = EXIT_MACHINE


_REMEDIES = {
    errno.EACCES: "get the right to it, or name another path",
    errno.EPERM: "get the right to it, or name another path",
    errno.EROFS: "name a path on a disk that you may write to",
    errno.ENOSPC: "free some of the disk, or use another one",
    errno.EDQUOT: "free some of your quota, or use another disk",
    errno.EISDIR: "name a file, not a folder",
}


def remedy_of(error: OSError) -> str:
    """How to fix what the operating system refused."""
    return _REMEDIES.get(error.errno or 0, "check the path")


def printable(text: str) -> str:
    """Text from a log, a file or its name, made safe for a terminal: control and formatting characters become dots.

    So do line breaks; see `printable_lines`.
    """
    return "".join(char if char.isprintable() else "\N{MIDDLE DOT}" for char in text)


def printable_lines(text: str) -> str:
    """Like `printable`, but keeps line breaks, as for a traceback."""
    return "\n".join(map(printable, text.split("\n")))


def shortlist(items: Sequence[str], most: int, rest: str = " and {} more", separator: str = ", ") -> str:
    """The first items in one line; `rest` states how many others there are."""
    others = len(items) - most
    return separator.join(items[:most]) + (rest.format(others) if others > 0 else "")


def suggestion(word: str, known: Iterable[str]) -> str:
    """`did you mean X?` if something known is close to `word`, else the list of what is known.

    A name with other numbers is not a misspelling: llama-3.3-70b does not mean llama-3.2-3b.
    """
    choices = sorted(known)
    same_numbers = [choice for choice in choices if _numbers(choice) == _numbers(word)]
    close = get_close_matches(word, same_numbers, n=1)
    return f"did you mean {close[0]}?" if close else f"known: {', '.join(choices)}"


def _numbers(word: str) -> list[str]:
    return re.findall(r"\d+", word)
