"""The reward functions in a user's file, as GRPO uses them."""

from pathlib import Path

import pytest

from loadcheck.errors import BadInput
from loadcheck.stacks.grpo_trainer import reward_functions

FILE = """
import re
from math import sqrt as takes_completions_not

def by_length(completions, **columns):
    return [float(len(each)) for each in completions]

def exact(prompts, completions, answer, **columns):
    return [float(each == wanted) for each, wanted in zip(completions, answer)]

def _helper(completions):
    return []

def other(text):
    return text

class Reward:
    def __call__(self, completions):
        return []
"""


def test_functions_that_take_completions_are_rewards(tmp_path: Path):
    """Imports, helpers and functions without completions are no rewards."""
    path = tmp_path / "rewards.py"
    path.write_text(FILE)
    found = reward_functions(str(path))
    assert [each.__name__ for each in found] == ["by_length", "exact"]
    assert found[1](prompts=["?"], completions=["4"], answer=["4"]) == [1.0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def other(text): ...", "has no function that takes `completions`"),
        ("raise OSError('no such disk')", "OSError: no such disk"),
        ("def broken(:", "SyntaxError"),
        (None, "FileNotFoundError"),
    ],
)
def test_a_file_without_rewards_is_refused(text: str | None, message: str, tmp_path: Path):
    """A file without reward functions is refused before the model is loaded, with its own reason."""
    path = tmp_path / "rewards.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(BadInput, match=message):
        reward_functions(str(path))


def test_grpo_without_a_file_is_refused():
    """GRPO needs a reward file, as no reward suits every task."""
    with pytest.raises(BadInput, match="GRPO needs reward functions"):
        reward_functions(None)
