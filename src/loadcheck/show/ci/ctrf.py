"""The Common Test Report Format, JSON that CI plugins for GitHub, Jenkins, Slack and others read (ctrf.io, specification 1.0.0)."""

from __future__ import annotations

from collections import Counter
from typing import Any

from loadcheck import __version__
from loadcheck.encoding import json_text
from loadcheck.show.ci.report import Outcome, Report, Result

SPEC = "1.0.0"
STATUSES = ("passed", "failed", "skipped", "pending", "other")


def ctrf(report: Report) -> str:
    """The document; times in ms since 1970. Checks have no duration; the load's is from start to stop."""
    start_ms = round(report.started.timestamp() * 1000)
    counts = Counter(map(_status, report.results))
    document = {
        "reportFormat": "CTRF",
        "specVersion": SPEC,
        "generatedBy": "loadcheck",
        "results": {
            "tool": {"name": "loadcheck", "version": __version__},
            "summary": {
                "tests": len(report.results),
                **{status: counts[status] for status in STATUSES},
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
        "status": _status(result),
        "duration": 0,
        "suite": ["loadcheck", result.group],
        "message": result.message,
        "rawStatus": result.kind if result.outcome.is_bad else result.outcome.value,
    }


def _status(result: Result) -> str:
    """An error is "failed": whoever counts the failures must not take it for a pass."""
    return Outcome.FAILED.value if result.outcome.is_bad else result.outcome.value
