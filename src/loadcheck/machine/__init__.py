"""The facts of a machine, and the findings of checks on them. The checks are doctor's (for any stack) and the stacks' (`machine_checks`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from loadcheck.machine.facts import ChangedFile, Machine, Symbols, Token, TokenForm
from loadcheck.machine.finding import Finding, Level, Report, ok, problem, warning
from loadcheck.plan import LoadPlan

Check = Callable[[Machine, LoadPlan], Iterator[Finding]]

__all__ = [
    "ChangedFile", "Check", "Finding", "Level", "Machine", "Report", "Symbols", "Token", "TokenForm", "ok", "problem", "warning",
]  # fmt: skip
