"""Reading load logs: what vLLM, unsloth and our own engines print, in every dialect that is known."""

from loadcheck.logs.parser import Attempt, LogError, Outcome, ParsedLog, parse_log

__all__ = ["Attempt", "LogError", "Outcome", "ParsedLog", "parse_log"]
