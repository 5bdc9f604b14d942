"""The Common Test Report Format, JSON that CI plugins for GitHub, Jenkins, Slack and others read (ctrf.io, specification 1.0.0)."""

from __future__ import annotations

from typing import Any

from loadcheck import __version__
from loadcheck.encoding import json_text
from loadcheck.show.ci.report import Outcome, Report, Result

SPEC = "1.0.0"


def ctrf(report: Report) -> str:
    """The document; times in ms since 1970. Checks have no duration; the load's is from start to stop."""
    start_ms = round(report.started.timestamp() * 1000)
    counts = report.counts
    document = {
        "reportFormat": "CTRF",
        "specVersion": SPEC,
        "generatedBy": "loadcheck",
        "results": {
            "tool": {"name": "loadcheck", "version": __version__},
            "summary": {
                "tests": len(report.results),
                **{outcome.value: counts[outcome] for outcome in Outcome},
                "pending": 0,
                "other": 0,
                "start": start_ms,
                "stop": start_ms + round(report.duration_s * 1000),
            },
            "tests": [_test(each) for each in report.results],
            "environment": {"reportName": report.title, "extra": {"verdict": report.status, **dict(report.facts)}},
            "extra": {"summary": report.summary, "cause": report.cause, "fix": report.fix},
        },
    }
    return json_text(document) + "\n"


def _test(result: Result) -> dict[str, Any]:
    return {
        "name": result.name,
        "status": result.outcome.value,
        "duration": 0,
        "suite": ["loadcheck", result.group],
        "message": result.message,
        "rawStatus": result.kind if result.outcome is Outcome.FAILED else result.outcome.value,
    }
