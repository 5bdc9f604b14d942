"""The output of fleet plan for Slurm, submitted to Slurm itself: one node on loopback, if its programs are installed."""

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from loadcheck.fleet.engines import engine_of, write_files
from loadcheck.fleet.plan import FleetPlan
from tests.conftest import ROOT
from tests.engines.slurm import PARTITION, cluster, unavailable_reason
from tests.test_fleet_plan import IMAGE, plan_for

LOADCHECK = ROOT / ".venv" / "cpu" / "bin" / "loadcheck"
pytestmark = [
    pytest.mark.skipif(bool(unavailable_reason()), reason=unavailable_reason() or "-"),
    pytest.mark.xdist_group("real loads"),
]

# Stands in for Apptainer: bound folders are used under their own names, and prefixed variables become the environment.
STAND_IN = """\
#!/bin/bash
while [ "$1" != --bind ]; do shift; done
runs=${2%%:*}
shift 4
for name in ${!APPTAINERENV_*}; do export "${name#APPTAINERENV_}=${!name}"; done
exec "$PROGRAM" "${@//\\/home\\/loadcheck\\/runs/$runs}"
"""
NAMED = '#!/bin/sh\necho "$CUDA_VISIBLE_DEVICES $LOADCHECK_IMAGE" >"$3/$LOADCHECK_NODE"\n'


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a cluster's user."""
    with cluster(tmp_path_factory.mktemp("slurm")) as environ:
        yield environ


@pytest.fixture
def site(tmp_path: Path, slurm: dict[str, str]) -> dict[str, str]:
    """A site with the unpacked bundle and Apptainer; PROGRAM is the image's program."""
    for folder in ("bundle", "bin", "root/usr/local/bin", "results"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "bundle" / "digest").write_text(IMAGE.partition("@")[2] + "\n")
    shutil.copy(ROOT / "scripts/image/bundle-run", tmp_path / "bundle" / "run")
    (tmp_path / "bin" / "apptainer").write_text(STAND_IN)
    (tmp_path / "bin" / "named").write_text(NAMED)
    for name in ("bundle/run", "bin/apptainer", "bin/named", "root/usr/local/bin/loadcheck"):
        (tmp_path / name).touch()
        (tmp_path / name).chmod(0o755)
    return {**slurm, "PATH": f"{tmp_path / 'bin'}:{slurm['PATH']}", "PROGRAM": str(tmp_path / "bin" / "named")}


def _plan(folder: Path, **changes: object) -> FleetPlan:
    options = {"bundle": str(folder / "bundle"), "root": str(folder / "root"), "partition": PARTITION,
               "gres": {"T4": "gpu:t4:1", "A100-40GB": "gpu:a100:1"}, "cpus": 1, "ram_gib": 2}  # fmt: skip
    plan = plan_for("slurm", results=str(folder / "results"), slurm={**options, **changes})
    write_files(plan, folder / "plan")
    return plan


def _run(folder: Path, environ: dict[str, str], *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=folder,
        env=environ,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def test_slurm_accepts_the_arrays(tmp_path: Path, site: dict[str, str]):
    """`sbatch --test-only` accepts each array, and refuses one for an unknown partition."""
    for partition, code in ((PARTITION, 0), ("other", 1)):
        _plan(tmp_path, partition=partition)
        for unit in ("t4", "a100-40gb"):
            tested = _run(tmp_path / "plan", site, "sbatch", "--test-only", f"{unit}.sbatch")
            assert tested.returncode == code, tested.stderr


def test_each_task_of_an_array_has_its_own_gpu(tmp_path: Path, site: dict[str, str]):
    """Slurm sets CUDA_VISIBLE_DEVICES: each of three nodes gets its own T4."""
    plan = _plan(tmp_path)
    ran = _run(tmp_path / "plan", site, *engine_of(plan).start(plan)[0])
    printed = [file.read_text() for file in (tmp_path / "plan").glob("*.out")]
    assert ran.returncode == 0, (ran.stderr, printed)
    output = {file.name: file.read_text().split() for file in (tmp_path / "results").glob("t4-*")}
    assert sorted(output) == ["t4-0", "t4-1", "t4-2"]
    assert sorted(gpu for gpu, _ in output.values()) == ["0", "1", "2"]
    assert {image for _, image in output.values()} == {IMAGE.partition("@")[2]}


def test_waiting_tasks_are_cancelled(tmp_path: Path, site: dict[str, str]):
    """The plan's stop command cancels queued tasks by name."""
    plan = _plan(tmp_path)
    assert _run(tmp_path / "plan", site, "sbatch", "--hold", "t4.sbatch").returncode == 0
    queue = ("squeue", "--noheader", "--format=%j")
    assert set(_run(tmp_path, site, *queue).stdout.split()) == {"fleet-t4"}
    for command in engine_of(plan).stop(plan):
        assert _run(tmp_path, site, *command).returncode == 0
    deadline_s = time.monotonic() + 120
    while _run(tmp_path, site, *queue).stdout.strip() and time.monotonic() < deadline_s:
        time.sleep(0.2)
    assert _run(tmp_path, site, *queue).stdout.strip() == ""


@pytest.mark.cpu
@pytest.mark.skipif(not LOADCHECK.exists(), reason=".venv/cpu is not installed; `make test` installs it")
def test_the_cpu_default_passes_through_slurm(tmp_path: Path, site: dict[str, str]):
    """Planned, run by Slurm as an array of two, sealed and gathered: a pass."""
    (tmp_path / "FLEET.toml").write_text(
        f'name = "two"\nengine = "slurm"\nimage = "{IMAGE}"\nprofile = "smollm2-135m-cpu"\nresults = "{tmp_path}/results"\n'
        f'[[nodes]]\ncard = "cpu"\ncount = 2\n[slurm]\nbundle = "{tmp_path}/bundle"\nroot = "{tmp_path}/root"\ncpus = 1\nram_gib = 2\n'
    )
    environ = {**site, "PROGRAM": str(LOADCHECK)}
    fleet = (str(LOADCHECK), "fleet")
    assert _run(tmp_path, environ, *fleet, "plan", "FLEET.toml", "--out", "plan").returncode == 0
    ran = _run(tmp_path, environ, *fleet, "run", "plan", "--json")
    printed = [file.read_text()[-2000:] for file in (tmp_path / "plan").glob("*.out")]
    assert ran.returncode == 0, (ran.stdout[-3000:], ran.stderr, printed)
    document = json.loads(ran.stdout)
    assert (document["verdict"], document["counts"], document["image"]) == ("pass", {"pass": 2}, IMAGE)
    assert {file.name for file in (tmp_path / "plan").glob("*.out")} == {"two-cpu-0.out", "two-cpu-1.out"}
