"""A real fleet on this machine: the CPU default on two workers, gathered to one verdict."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT

LOADCHECK = ROOT / ".venv" / "cpu" / "bin" / "loadcheck"

pytestmark = [
    pytest.mark.cpu,
    pytest.mark.xdist_group("real loads"),
    pytest.mark.skipif(not LOADCHECK.exists(), reason=".venv/cpu is not installed; `make test` installs it"),
]


def test_two_workers_pass_side_by_side(tmp_path: Path):
    """Planned, run at once and gathered: both nodes pass with the predicted figures."""
    results = tmp_path / "results"
    (tmp_path / "FLEET.toml").write_text(
        f'name = "two"\nengine = "local"\nprofile = "smollm2-135m-cpu"\nresults = "{results}"\n'
        '[[nodes]]\ncard = "cpu"\ncount = 2\n[local]\nworkers = 2\n'
    )
    plan = [str(LOADCHECK), "fleet", "plan", "FLEET.toml", "--out", "plan"]
    subprocess.run(plan, cwd=tmp_path, check=True, capture_output=True)
    run = subprocess.run(
        [str(LOADCHECK), "fleet", "run", "plan", "--json"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    document = json.loads(run.stdout)
    assert (run.returncode, document["verdict"], document["counts"]) == (0, "pass", {"pass": 2}), (
        document["findings"],
        run.stderr,
    )
    measured = {each["figure"]: (each["measured"], each["nodes"]) for each in document["figures"]}
    assert measured["weights_gib"] == ("0.1040", 2) and document["findings"] == []
