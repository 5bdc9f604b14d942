"""Reward functions for GRPO: `loadcheck train --method grpo --data examples/sums.jsonl --reward-functions examples/rewards.py`.

trl calls each function with the prompts, the completions (chats of one turn) and the other keys of the rows. The reward of a completion is
the sum of their results.
"""

from __future__ import annotations

import re
from typing import Any

Chat = list[dict[str, str]]


def right(completions: list[Chat], answer: list[str], **_: Any) -> list[float]:
    """1 if the first number of the completion is the answer."""
    found = [re.search(r"-?\d+", chat[0]["content"]) for chat in completions]
    return [float(number is not None and number[0] == wanted) for number, wanted in zip(found, answer, strict=True)]


def short(completions: list[Chat], **_: Any) -> list[float]:
    """Up to 0.2, more for shorter answers."""
    return [0.2 / (1 + len(chat[0]["content"].split())) for chat in completions]
