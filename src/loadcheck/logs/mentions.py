"""Tells a line that only mentions a failure (a prompt, a model's answer, advice) from one that reports it. In doubt it is a report."""

from __future__ import annotations

import re

_GOES_ON = re.compile(
    r"[\"'”’`*]{0,3}[,:]? (?:errors?,? )?(?:is|are|was|means?|happens?|occurs?|can|could|may|might)\b|[\"'”’`*]{0,3} errors\b|"
    r"\.? (?:this|these|it|that|which|you|your) [a-z]|(?:[^.]{0,200}\w)?\?(?=[\s\"'”’)]|$)",
    re.IGNORECASE,
)
"""How a sentence goes on after a failure's words. A program prints them and stops, or goes on with figures."""
_ITEM = re.compile(r"\s*(?:\d{1,2}[.)]|[-*•]) {1,4}[\"'“‘`*]{0,3}")
"""The beginning of an item in a list of advice."""
_CONDITION = re.compile(
    r"\W{0,4}(?:If|When|Whenever|Should|In case of|To (?:avoid|prevent|fix|solve|reduce)|How to)\b[^.!]{0,80} ",
    re.IGNORECASE,
)
"""The beginning of a sentence that says what to do about a failure."""
_QUOTE = re.compile(
    r"(?:[\"'](?:generated_text|prompt|completion|answer|question|instruction)[\"']\s{0,9}:|\b(?:text|prompt|outputs)=|\bprompt: |\bprint\(|\b(?:Prompt|Generated text|Output):)"
    r"\s{0,9}\[?\s{0,9}[\"']"
)
"""Where a line begins to quote a prompt or an answer, in JSON or in a Python repr (vLLM's RequestOutput, and its server's line of each request,
vllm/entrypoints/logger.py:35-40), as vLLM's examples print them (examples/offline_inference/basic/basic.py), or in program text."""
_PHRASE_BEFORE, _PHRASE_AFTER = re.compile(r"\w [\"“`]$"), re.compile(r"[\"”`][,;:)]{0,2} (?=\w)")
"""What surrounds words that are quoted within a sentence."""


def before_quote(text: str) -> str:
    """The line up to where it quotes a prompt or a model's answer."""
    quote = _QUOTE.search(text) if '"' in text or "'" in text else None
    return text if quote is None else text[: quote.end()]


def is_mention(text: str, start: int, end: int) -> bool:
    """Whether text[start:end], the words of a failure, is in a sentence about the failure, or in a quoted prompt or answer."""
    before, after = text[:start], text[end:]
    return (
        _GOES_ON.match(after) is not None
        or (_ITEM.fullmatch(before) is not None and not after.startswith(". Tried to allocate"))
        or _CONDITION.fullmatch(before) is not None
        or _QUOTE.search(before) is not None
        or (_PHRASE_BEFORE.search(before) is not None and _PHRASE_AFTER.match(after) is not None)
    )
