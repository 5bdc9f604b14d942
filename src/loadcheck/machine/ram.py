"""Checks the host's memory against what a load needs."""

from __future__ import annotations

from collections.abc import Iterator

from loadcheck.machine.facts import Machine
from loadcheck.machine.finding import Finding, ok, warning
from loadcheck.units import show_bytes


def ram_for(machine: Machine, needed_bytes: int) -> Iterator[Finding]:
    """Only a warning if less is available, as other programs may free some before it is needed."""
    available = show_bytes(machine.ram_available_bytes)
    if machine.ram_available_bytes < needed_bytes:
        what = f"{available} are available, and the load takes about {show_bytes(needed_bytes)}"
        yield warning("ram", what, "host-memory")
    else:
        yield ok("ram", f"{available} are available")
