"""The example that judges a colleague's log, by its exit codes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["tests/runs/t4_llama31-8b_reference.txt"], 0),
        (["tests/runs/h200/short-of-estimate"], 1),
        (["README.md"], 2),
        ([], 2),
    ],
)
def test_the_log_example_exits_as_it_says(arguments: list[str], code: int, tmp_path: Path):
    """examples/judge_log.sh exits with 0 for a log in range, with 1 for one that is not, and with 2 without a load log."""
    command = tmp_path / "loadcheck"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m loadcheck "$@"\n')
    command.chmod(0o755)
    done = subprocess.run(
        ["bash", "examples/judge_log.sh", *arguments],
        cwd=ROOT, env={**os.environ, "LOADCHECK": str(command)}, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == code
