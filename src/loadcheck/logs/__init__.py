"""Reading load logs. Each stack describes the lines that it prints in a dialect (logs/dialect.py)."""

from loadcheck.logs.attempt import Attempt, Outcome, ParsedLog
from loadcheck.logs.dialect import Dialect
from loadcheck.logs.endings import Kind, LogError
from loadcheck.logs.parser import parse_log

__all__ = ["Attempt", "Dialect", "Kind", "LogError", "Outcome", "ParsedLog", "parse_log"]
