"""Reading load logs: what vLLM, unsloth and our own engines print, in every dialect that is known."""

from loadcheck.logs.endings import Kind, LogError
from loadcheck.logs.parser import Attempt, Outcome, ParsedLog, parse_log

__all__ = ["Attempt", "Kind", "LogError", "Outcome", "ParsedLog", "parse_log"]
