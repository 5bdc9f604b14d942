"""The reward functions of a user's file, as GRPO takes them."""

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


def test_the_functions_of_a_file_that_take_completions_are_the_rewards(tmp_path: Path):
    """Neither what it imports, nor helpers, nor functions of something else."""
    path = tmp_path / "rewards.py"
    path.write_text(FILE)
    found = reward_functions(str(path))
    assert [each.__name__ for each in found] == ["by_length", "exact"]
    assert found[1](prompts=["?"], completions=["4"], answer=["4"]) == [1.0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def other(text): ...", "has no function that takes `completions`"),
        ("raise OSError('no such disk')", "OSError: no such disk"),
        ("def broken(:", "SyntaxError"),
        (None, "FileNotFoundError"),
    ],
)
def test_a_file_without_rewards_is_refused(text: str | None, said: str, tmp_path: Path):
    """Before the model is loaded, in its own words."""
    path = tmp_path / "rewards.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(BadInput, match=said):
        reward_functions(str(path))


def test_grpo_without_a_file_is_refused():
    """There is no reward that suits every task."""
    with pytest.raises(BadInput, match="GRPO needs reward functions"):
        reward_functions(None)
