"""The known troubles, and the diagnoses of a log."""

from pathlib import Path

from loadcheck.checking import gather
from loadcheck.specs.trouble import load_troubles
from loadcheck.verdict import Finding, judge

TROUBLES = {trouble.id: trouble for trouble in load_troubles()}


def diagnoses(log: Path) -> dict[str, Finding]:
    """The findings on troubles in a judgement of the log, by trouble id."""
    return {finding.trouble: finding for finding in judge(gather(log)).findings if finding.trouble}


def trouble_entry(**changes: object) -> dict[str, object]:
    """A valid entry of env/troubles.toml, with these changes."""
    entry = {
        "id": "x",
        "title": "t",
        "cause": "c",
        "remedy": "r",
        "references": ["z #1"],
        "handling": "diagnosed",
        "we_do": "w",
    }
    return entry | changes
