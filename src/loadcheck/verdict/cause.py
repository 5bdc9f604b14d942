"""Why a load did not finish: the findings to show first, among those on everything that it did not reach."""

from __future__ import annotations

from loadcheck.findings.finding import Finding, Verdict

END_FIGURES = ("process", "error", "outcome", "log")
"""The figures of the findings that tell that a load did not finish, or why."""
SURVIVED = ("length-cut", "budget-below-weights", "retry", "prompt-too-long")
"""Troubles of env/troubles.toml after which unsloth goes on: they do not end a load, so what did end it is named first."""
WARNINGS = ("import-order",)
"""Troubles that are only warnings: something else ended the load."""


def causes(verdict: Verdict) -> tuple[Finding, ...]:
    """Why the load did not finish, the most specific finding first; empty for a load that finished.

    An interruption is the whole cause. Otherwise it is what the diagnosis names, first of all the trouble on the blamed line, as a log may also
    tell of troubles that the load survived; failing that, how the process ended; failing that, how far the log goes.
    """
    ends = [finding for finding in verdict.failures() if finding.figure in END_FIGURES]
    process = [finding for finding in ends if finding.figure == "process"]
    if any(finding.measured == "interrupted" for finding in process):
        return tuple(process)
    named = [finding for finding in ends if finding.trouble is not None]
    if len(named) == len(ends):  # only troubles that the load survived
        return ()
    unnamed = [finding for finding in ends if finding.trouble is None]
    blamed = next((finding.where for finding in unnamed if finding.figure == "error"), None)
    decisive = [finding for finding in named if finding.trouble not in WARNINGS]
    first = (
        sorted(decisive, key=lambda finding: (finding.trouble in SURVIVED, finding.where != blamed))
        or process
        or unnamed[:1]
    )
    return (*first, *(finding for finding in named if finding.trouble in WARNINGS))
