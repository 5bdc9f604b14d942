"""Words of a failure that a line only speaks of: a model's answer, a question to it, advice. What is doubtful counts as a failure."""

from __future__ import annotations

import re

_GOES_ON = re.compile(
    r"[\"'”’`*]{0,3}[,:]? (?:errors?,? )?(?:is|are|was|means?|happens?|occurs?|can|could|may|might)\b|[\"'”’`*]{0,3} errors\b|"
    r"\.? (?:this|these|it|that|which|you|your) [a-z]|(?:[^.]{0,200}\w)?\?(?=[\s\"'”’)]|$)",
    re.IGNORECASE,
)
"""A sentence about them, behind them; a program says them and stops, or goes on with figures."""
_ITEM = re.compile(r"\s*(?:\d{1,2}[.)]|[-*•]) {1,4}[\"'“‘`*]{0,3}")
"""An item of a list of advice."""
_ASKED_OR_ANSWERED = re.compile(
    r"(?:[\"'](?:generated_text|prompt|completion|answer|question|instruction)[\"']\s{0,9}:|\b(?:text|prompt|outputs)=|\bprompt: |\bprint\()"
    r"\s{0,9}\[?\s{0,9}[\"']"
)
"""What a model was asked, or answered, in JSON or in a record of Python's (vLLM's RequestOutput, and its server's line of each request,
vllm/entrypoints/logger.py:35-40); a line of a program's text."""
_PHRASE_BEFORE, _PHRASE_AFTER = re.compile(r"\w [\"“`]$"), re.compile(r"[\"”`] (?=\w)")
"""Quoted within a sentence."""


def own_words(text: str) -> str:
    """A line up to where it quotes what a model was asked or answered."""
    quote = _ASKED_OR_ANSWERED.search(text)
    return text if quote is None else text[: quote.end()]


def is_spoken_of(text: str, start: int, end: int) -> bool:
    """Whether text[start:end], words of a failure, stands in a sentence about it or in a quote of what a model was asked or answered."""
    before, after = text[:start], text[end:]
    return (
        _GOES_ON.match(after) is not None
        or (_ITEM.fullmatch(before) is not None and not after.startswith(". Tried to allocate"))
        or _ASKED_OR_ANSWERED.search(before) is not None
        or (_PHRASE_BEFORE.search(before) is not None and _PHRASE_AFTER.match(after) is not None)
    )
