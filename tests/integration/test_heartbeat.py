"""`make test` is never silent for long."""

import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT

PROGRAM = """
import sys
import pytest
from tests import heartbeat
heartbeat.SILENCE_S = 0.1
sys.exit(pytest.main(["-p", "tests.heartbeat", "-p", "no:cacheprovider", "-c", sys.argv[1] + "/empty.ini", sys.argv[1]]))
"""


def test_a_slow_test_prints_a_mark(tmp_path: Path):
    """A mark is printed during a slow test, although its output is captured."""
    (tmp_path / "empty.ini").write_text("[pytest]\n")
    (tmp_path / "test_slow.py").write_text(
        "import time\ndef test_slow():\n    print('captured')\n    time.sleep(0.6)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and "~" in done.stdout and "captured" not in done.stdout
