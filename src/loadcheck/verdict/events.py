"""Whether the events of our own engine say what they are to say, each field of its type and in its bounds.

What the later steps read is then a number, a word or a flag, or there is a finding about it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

from loadcheck.figures import MAX_NUMBER, figure_specs
from loadcheck.findings.evidence import Evidence
from loadcheck.findings.finding import Check, Finding, Status

Holds = Callable[[Any], bool]


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MAX_NUMBER


def _number(value: Any) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and abs(value) < MAX_NUMBER
        and math.isfinite(value)
    )


def _amount(value: Any) -> bool:
    return _number(value) and value >= 0


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


def _versions(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and all(isinstance(each, str) for each in value.values())


def _or_null(holds: Holds) -> Holds:
    return lambda value: value is None or holds(value)


# By field, as stacks/unsloth_vllm/{engine,session,device}.py and stacks/transformers_cpu/engine.py print them; a field that is not here is only shown, or not read at all.
FIELDS: dict[str, tuple[str, Holds]] = {
    "prompt": ("text", _text),
    "text": ("text", _text),
    "source": ("text", _text),
    "adapter_sha256": ("text", _text),
    "token_ids_sha256": ("text", _text),
    "expected": ("text or null", _or_null(_text)),
    "found": ("true, false or null", _or_null(_flag)),
    "adapter_enabled": ("true or false", _flag),
    "adapter_changed": ("true or false", _flag),
    "base_unchanged": ("true or false", _flag),
    "same_weights": ("true or false", _flag),
    "same_answer": ("true or false", _flag),
    "cached": ("true or false", _flag),
    # null where a loss is no number, which `trained` fails for; GRPO's may be below 0
    "first_loss": ("a number or null", _or_null(_number)),
    "last_loss": ("a number or null", _or_null(_number)),
    "loss": ("a number or null", _or_null(_number)),
    "first_token_unix_s": ("seconds or null", _or_null(_amount)),
    "versions": ("a version by package", _versions),
    "step": ("a count", _count),
}


def check_events(evidence: Evidence) -> Iterator[Finding]:
    """A failure for each field that is no such value."""
    seen: set[tuple[str, str]] = set()
    for event in evidence.attempt.events:
        for field, value in event.items():
            wanted, holds = _wanted(field)
            key = (event["event"], field)
            if holds is None or holds(value) or key in seen:
                continue
            seen.add(key)
            yield Finding(figure=event["event"], check=Check.RUN, status=Status.FAIL, measured=repr(value)[:80],
                          why=f"the engine's event {event['event']} must say {wanted} for {field}",
                          remedy="the log was damaged or edited: load it again", where=evidence.where(None))  # fmt: skip


def _wanted(field: str) -> tuple[str, Holds | None]:
    """What a field must be, by its name: counts and seconds are called so."""
    if field in FIELDS:
        return FIELDS[field]
    spec = figure_specs().get(field)
    if spec is not None and not field.endswith("_bytes") and not field.startswith("num_"):
        return "that figure", spec.holds
    if field.startswith("num_") or field.endswith(("_bytes", "_params")):
        return "a whole number, not below 0", _count
    if field.endswith("_s"):
        return "seconds, not below 0", _amount
    return "", None
