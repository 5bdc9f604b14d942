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


def _fleet(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(LOADCHECK), "fleet", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_two_workers_pass_side_by_side(tmp_path: Path):
    """Planned, run at once and gathered: both nodes pass with the predicted figures."""
    results = tmp_path / "results"
    (tmp_path / "FLEET.toml").write_text(
        f'name = "two"\nengine = "local"\nprofile = "smollm2-135m-cpu"\nresults = "{results}"\n'
        '[[nodes]]\ncard = "cpu"\ncount = 2\n[local]\nworkers = 2\n'
    )
    planned = _fleet(tmp_path, "plan", "FLEET.toml", "--out", "plan")
    assert planned.returncode == 0, (planned.stdout, planned.stderr)
    run = _fleet(tmp_path, "run", "plan", "--json")
    outputs = {file.name: file.read_text(errors="replace")[-4000:] for file in (tmp_path / "plan").glob("*.out")}
    assert run.stdout, (run.stderr, outputs)
    document = json.loads(run.stdout)
    assert (run.returncode, document["verdict"], document["counts"]) == (0, "pass", {"pass": 2}), (
        document["findings"],
        run.stderr,
        outputs,
    )
    measured = {each["figure"]: (each["measured"], each["nodes"]) for each in document["figures"]}
    assert measured["weights_gib"] == ("0.1040", 2) and document["findings"] == []
