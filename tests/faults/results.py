"""What the runs of `make faults` leave for docs/faults.md."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Seen:
    """What one run left behind.

    Attributes:
        outcome, reason: of its run.json.
        figures: the number printed before the fault, each of which was then read from the run's log.
    """

    fault: str
    moment: str
    exit_code: int
    outcome: str
    reason: str
    figures: int
