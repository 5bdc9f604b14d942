"""Whether a line begins as those of a load, or of its failure, rather than being a sentence about one."""

from __future__ import annotations

import re

from loadcheck.logs.attempt import Attempt
from loadcheck.logs.dialect import Dialect
from loadcheck.logs.endings import Kind, LogError
from loadcheck.logs.formats import Stage
from loadcheck.logs.mentions import is_mention

MAX_WORDS_CHARS = 110
"""The longest line that makes a file a log by its report of a process death alone. A sentence of prose is longer, or wraps later."""
_LEAD = re.compile(r"(?![-*+] )\W{0,4}(?:[\w./:-]{1,255}: )?(?:(?:fatal )?error: |fatal: )?(?:[A-Z][\w ]{0,40}: )?")
"""What may precede a failure's words at the beginning of a line: the name of an exception, a file, or a program (docker, ld)."""


def is_report(text: str, error: LogError) -> bool:
    """Whether a line without its prefixes reports this failure, rather than being a sentence about it."""
    if error.kind is Kind.DEATH:
        return len(text) <= MAX_WORDS_CHARS or text.startswith(("Error: ", "docker: "))
    return _LEAD.fullmatch(text.partition(error.text)[0]) is not None


def is_of_earlier_run(error: LogError, attempt: Attempt) -> bool:
    """Whether an error is of a run before the one in the log: by its words, and as the load began behind it and ended its start."""
    begun = error.stage not in (None, Stage.BANNER) or any(event.line < error.line for event in attempt.events)
    return error.tells_of_earlier and not begun and attempt.ready_line is not None and attempt.ready_line > error.line


def is_reported(text: str, match: re.Match[str]) -> bool:
    """Whether a failure's words begin their line, and the line does not merely mention them."""
    return _LEAD.fullmatch(text[: match.start()]) is not None and not is_mention(text, match.start(), match.end())


def begins_as_a_load(dialect: Dialect, text: str) -> bool:
    """Whether a line without its prefixes begins as a load's lines do, after at most the drawing of a banner."""
    for format in dialect.formats:
        if format.anchor in text and (match := format.pattern.search(text)):
            lead = text[: match.start()]
            if not any(char.isalnum() for char in lead) or lead.lstrip().startswith(dialect.leads):
                return True
    return False
