"""Checks that the running image is the one that was signed, if LOADCHECK_PROVENANCE names a statement."""

from __future__ import annotations

from collections.abc import Iterator

from loadcheck.machine import Finding, Level, Machine, ok
from loadcheck.plan import LoadPlan

REMEDY = "pull the image again with make pull SIGNERS=, and name the statement that came with it (LOADCHECK_PROVENANCE, LOADCHECK_SIGNERS)"


def check_provenance(machine: Machine, plan: LoadPlan) -> Iterator[Finding]:  # noqa: ARG001: all checks have this signature
    """The signature, the image's digest, its commit and its lock."""
    found = machine.provenance
    if found is None:
        return
    if isinstance(found, str):
        yield _problem(found)
        return
    yield from map(_problem, found.faults)
    if not found.faults:
        commit = found.statement.dependency("source").get("gitCommit", "an unknown commit")
        yield ok("provenance", f"built from {commit}, signed by {found.signer}")


def _problem(what: str) -> Finding:
    return Finding(check="provenance", level=Level.PROBLEM, what=what,
                   why="it is then not known whether what runs here is what was built and signed", remedy=REMEDY)  # fmt: skip


CHECKS = (check_provenance,)
