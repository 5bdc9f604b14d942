"""Whether each field of our engine's events has the right type and is within its bounds (logs/events.py).

A later step can rely on the fields that it reads: for every invalid one there is a finding.
"""

from __future__ import annotations

from collections.abc import Iterator

from loadcheck.findings.evidence import Evidence
from loadcheck.findings.finding import Check, Finding, Status


def check_events(evidence: Evidence) -> Iterator[Finding]:
    """A failure for each invalid field, once per event name and field."""
    seen: set[tuple[str, str]] = set()
    for event in evidence.attempt.events:
        for fault in event.faults:
            if (event.name, fault.field) not in seen:
                seen.add((event.name, fault.field))
                yield Finding(figure=event.name, check=Check.RUN, status=Status.FAIL, measured=repr(fault.value)[:80],
                              why=f"{fault.field} of the engine's event {event.name} must be {fault.wanted}",
                              remedy="the log was damaged or edited: load it again", where=evidence.where(event.line))  # fmt: skip
