"""The sweep of test_contradictions, to a training on a GPU."""

from pathlib import Path

import pytest

from tests.test_contradictions import PACKED, SAID_TWICE, check_said_twice


@pytest.mark.parametrize(("file", "was", "now", "figure"), SAID_TWICE)
def test_the_files_of_a_training_on_a_gpu_say_the_same(file: str, was: str, now: str, figure: str, tmp_path: Path):
    """As a CPU's do: one that says otherwise is named."""
    check_said_twice(PACKED, file, was, now, figure, tmp_path / "run")
