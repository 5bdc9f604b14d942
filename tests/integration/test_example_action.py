"""The example's composite action of GitHub, whose shell is run as a runner would."""

import re
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT, RUNS

REFERENCE, TRAINED = RUNS / "h200/reference", RUNS / "h200/reference-train3"


def test_the_example_action_passes_and_fails(tmp_path: Path):
    """The shell of the example's composite action passes for the same run, fails for another one, and writes both reports."""
    action = (ROOT / "examples/figures-gate/action.yml").read_text()
    found = re.search(r"run: \|\n((?: {8}.*\n)+)", action)
    assert found is not None
    called = tmp_path / "loadcheck"
    called.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m loadcheck "$@"\n')
    called.chmod(0o755)
    environment = {"PATH": "/usr/bin:/bin", "LOADCHECK": str(called), "BASELINE": str(REFERENCE)}
    for candidate, code in ((REFERENCE, 0), (TRAINED, 1)):
        done = subprocess.run(["bash", "-e", "-c", found[1]], cwd=tmp_path, env=environment | {"CANDIDATE": str(candidate)},
                              capture_output=True, check=False)  # fmt: skip
        assert done.returncode == code, done.stderr
        assert {path.name for path in (tmp_path / "figures-gate").iterdir()} == {"junit.xml", "ctrf.json"}
