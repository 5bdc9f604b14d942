"""A terminal that cannot show every character, tested with the command as its own process."""

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("arguments", "code"), [(["fit", "--gpu", "T4", "--ram-available-bytes", "12GiB"], 0), (["no-such-→"], 2)]
)
def test_an_ascii_terminal_keeps_the_exit_code(arguments: list[str], code: int):
    """Characters that ASCII lacks are replaced, and the exit code stays the command's."""
    done = subprocess.run(
        [sys.executable, "-m", "loadcheck", *arguments], capture_output=True, check=False,
        env=dict(os.environ, PYTHONIOENCODING="ascii", COLUMNS="60"),
    )  # fmt: skip
    assert (done.returncode, b"Traceback" in done.stderr) == (code, False), done.stderr
    assert arguments[0] != "fit" or b"rank 32 -> 16" in done.stdout
    assert done.stdout.isascii()
