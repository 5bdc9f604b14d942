"""From a log or a run folder to the evidence that is judged."""

from __future__ import annotations

from loadcheck.checking.gathering import gather, parse_run_log, read_log

__all__ = ["gather", "parse_run_log", "read_log"]
