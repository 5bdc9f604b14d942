"""Whether each field of our engine's events has the right type, is within its bounds (logs/events.py), and agrees with the others.

A later step can rely on the fields that it reads: for every invalid one there is a finding.
"""

from __future__ import annotations

from collections.abc import Iterator

from loadcheck.findings.evidence import Evidence
from loadcheck.findings.finding import Check, Finding, Status
from loadcheck.verdict.contradictions import REMEDY, check_contradictions


def check_events(evidence: Evidence) -> Iterator[Finding]:
    """A failure for each invalid field, once per event name and field, and for each event that cannot be true."""
    seen: set[tuple[str, str]] = set()
    for event in evidence.attempt.events:
        for fault in event.faults:
            if not fault.field and evidence.process is None:
                continue  # a terminal may have wrapped the line before it was pasted
            if (event.name, fault.field) not in seen:
                seen.add((event.name, fault.field))
                yield Finding(figure=event.name, check=Check.RUN, status=Status.FAIL, measured=repr(fault.value)[:80],
                              why=f"{fault.field or 'the line'} of the engine's event {event.name} must be {fault.wanted}",
                              remedy=REMEDY, where=evidence.where(event.line))  # fmt: skip
    yield from check_contradictions(evidence)
