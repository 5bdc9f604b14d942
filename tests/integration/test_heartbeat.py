"""`make test` is never silent for long."""

import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT

PROGRAM = """
import os, sys, threading
import pytest
from tests import heartbeat
heartbeat.SILENCE_S = 0.1
real, os.marked = os.write, threading.Event()
def write(descriptor, data):
    if data == b"~": os.marked.set()
    return real(descriptor, data)
os.write = write
sys.exit(pytest.main(["-p", "tests.heartbeat", "-p", "no:cacheprovider", "-c", sys.argv[1] + "/empty.ini", sys.argv[1]]))
"""


def test_a_slow_test_prints_a_mark(tmp_path: Path):
    """A mark is printed during a slow test, although its output is captured."""
    (tmp_path / "empty.ini").write_text("[pytest]\n")
    (tmp_path / "test_slow.py").write_text(
        "import os\ndef test_slow():\n    print('captured')\n    os.marked.wait(60)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and "~" in done.stdout and "captured" not in done.stdout
