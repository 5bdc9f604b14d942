"""Whether the events of our own engine say what they are to say, each field of its type and in its bounds (logs/events.py).

What the later steps read is then a number, a word or a flag, or there is a finding about it.
"""

from __future__ import annotations

from collections.abc import Iterator

from loadcheck.findings.evidence import Evidence
from loadcheck.findings.finding import Check, Finding, Status


def check_events(evidence: Evidence) -> Iterator[Finding]:
    """A failure for each field that is no such value, where it is the first time."""
    seen: set[tuple[str, str]] = set()
    for said in evidence.attempt.events:
        for fault in said.faults:
            if (said.name, fault.field) not in seen:
                seen.add((said.name, fault.field))
                yield Finding(figure=said.name, check=Check.RUN, status=Status.FAIL, measured=repr(fault.value)[:80],
                              why=f"the engine's event {said.name} must say {fault.wanted} for {fault.field}",
                              remedy="the log was damaged or edited: load it again", where=evidence.where(said.line))  # fmt: skip
