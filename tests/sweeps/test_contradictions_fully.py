"""test_contradictions with a training on a GPU."""

from pathlib import Path

import pytest

from tests.test_contradictions import PACKED, SAID_TWICE, check_said_twice


@pytest.mark.parametrize(("file", "was", "now", "figure"), SAID_TWICE)
def test_files_of_a_training_on_a_gpu_that_disagree_are_named(
    file: str, was: str, now: str, figure: str, tmp_path: Path
):
    """As with a CPU's: a file that disagrees is named."""
    check_said_twice(PACKED, file, was, now, figure, tmp_path / "run")
