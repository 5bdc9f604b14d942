"""What a load that did not finish suffers from: the findings to begin with, among all those of what it did not reach."""

from __future__ import annotations

from loadcheck.findings.finding import Finding, Verdict

ENDS = ("process", "error", "outcome", "log")
"""The figures of the findings that say that, or why, a load did not finish."""
GOES_ON = ("length-cut", "budget-below-weights", "retry", "prompt-too-long")
"""Troubles of env/troubles.toml after which unsloth goes on: they end no load, and what did is named beside them."""


def causes(verdict: Verdict) -> tuple[Finding, ...]:
    """Why the load did not finish, the most telling finding first; empty for a load that finished.

    An interruption is only that. Else it is what the diagnosis names; else how the process ended; else how far the log goes.
    """
    ends = [finding for finding in verdict.failures() if finding.figure in ENDS]
    process = [finding for finding in ends if finding.figure == "process"]
    if any(finding.measured == "interrupted" for finding in process):
        return tuple(process)
    named = [finding for finding in ends if finding.trouble is not None]
    if len(named) == len(ends):  # troubles that the load got over
        return ()
    return tuple(sorted(named, key=lambda finding: finding.trouble in GOES_ON) or process or ends[:1])
