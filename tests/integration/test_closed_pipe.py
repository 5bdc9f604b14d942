"""A reader of our output that closes its pipe, such as `| head`, tested with the command as its own process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("arguments", "unbuffered"),
    [("check LOG", ""), ("check LOG --json", ""), ("check LOG", "1"), ("--help", "")],
)
def test_a_closed_pipe_has_its_own_exit_code(arguments: str, unbuffered: str, t4_log: Path):
    """The table, the document and the help exit with 141 and no traceback, with and without Python's buffer."""
    read, write = os.pipe()
    os.close(read)
    command = [
        sys.executable,
        "-m",
        "loadcheck",
        *(str(t4_log) if word == "LOG" else word for word in arguments.split()),
    ]
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    result = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False, env=environment)
    os.close(write)
    assert (result.returncode, result.stderr) == (141, "")
