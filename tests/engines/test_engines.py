"""The output of fleet plan, read by the engines themselves (`make engines`), which needs no account."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from loadcheck.fleet.engines import write_files
from loadcheck.fleet.engines.ray import accelerator_type
from loadcheck.fleet.finding import Kind
from loadcheck.fleet.gather import gather_folder
from loadcheck.fleet.plan import NAME, FleetPlan, write_plan
from loadcheck.specs.gpu import load_gpus
from tests.conftest import ROOT
from tests.test_fleet_plan import OPTIONS, plan_for

BIN = ROOT / ".venv" / "engines" / "bin"
CPU = ROOT / ".venv" / "cpu" / "bin" / "python"
pytestmark = [
    pytest.mark.skipif(not BIN.exists(), reason=".venv/engines is not installed; `make engines` installs it"),
    pytest.mark.xdist_group("real loads"),
]

# The bucket is only checked against the schema, as looking it up needs an account.
READ_TASK = """\
import json, sys
import jsonschema, sky, yaml
from sky.utils import schemas
for file in sys.argv[1:]:
    config = yaml.safe_load(open(file))
    for mount in config.pop("file_mounts").values():
        jsonschema.validate(mount, schemas.get_storage_schema())
    task = sky.Task.from_yaml_config(config)
    (resources,) = task.resources
    print(json.dumps([task.name, task.num_nodes, resources.accelerators, list((resources.image_id or {}).values()), resources.use_spot]))
"""
NAMES = """\
import json, sys
from ray._private.accelerators.nvidia_gpu import NvidiaGPUAcceleratorManager as Manager
print(json.dumps({name: Manager._gpu_name_to_accelerator_type(name) for name in sys.argv[1:]}))
"""
CLUSTER = """\
import os, subprocess, sys
from ray.cluster_utils import Cluster
node = {"num_cpus": 1, "num_gpus": 1, "resources": {"accelerator_type:T4": 1}, "object_store_memory": 80 * 2**20}
cluster = Cluster(initialize_head=True, head_node_args=node)
for _ in range(7):
    cluster.add_node(**node)
done = subprocess.run([sys.executable, "ray_fleet.py"], env={**os.environ, "RAY_ADDRESS": cluster.address}, check=False)
cluster.shutdown()
sys.exit(done.returncode)
"""

CPU_CLUSTER = CLUSTER.replace(', "num_gpus": 1, "resources": {"accelerator_type:T4": 1}', "").replace(
    "range(7)", "range(1)"
)


def _written(tmp_path: Path, plan: FleetPlan) -> Path:
    write_files(plan, tmp_path)
    return tmp_path


def _run(tmp_path: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(BIN / command[0]), *command[1:]], cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False
    )


@pytest.mark.parametrize("options", [{}, {"runtime": "image", "use_spot": True}], ids=["docker", "image"])
def test_skypilot_reads_the_tasks(tmp_path: Path, options: dict[str, Any]):
    """Task.from_yaml accepts the tasks, with cards, count and image as planned; the bucket follows its schema."""
    folder = _written(tmp_path, plan := plan_for("skypilot", skypilot=options))
    read = _run(folder, "python", "-c", READ_TASK, "t4.yaml", "a100-40gb.yaml")
    assert read.returncode == 0, read.stderr
    images = [f"docker:{plan.image}"] if options else []
    assert [json.loads(line) for line in read.stdout.splitlines() if line.startswith("[")] == [
        ["fleet-t4", 3, {"T4": 1}, images, bool(options)],
        ["fleet-a100-40gb", 1, {"A100": 1}, images, bool(options)],
    ]


KUBERNETES = {
    "everything": {},
    "nothing but the claim": {"kubernetes": {"results_claim": "fleet"}},
    "named machines": {"nodes": [{"card": "T4", "hosts": ["gpu-a", "gpu-b"]}]},
    "no card": {"profile": "smollm2-135m-cpu", "nodes": [{"card": "cpu"}, {"card": "cpu"}]},
    "tolerations and labels": {"kubernetes": {"results_claim": "fleet", "tolerations": ["example.com/pool"], "products": {"T4": ["Tesla-T4-SHARED"]}}},
}  # fmt: skip


@pytest.mark.parametrize("changes", KUBERNETES.values(), ids=KUBERNETES)
def test_kubernetes_takes_the_jobs(tmp_path: Path, changes: dict[str, Any]):
    """Each job is valid by the API's own schema, without unknown fields."""
    folder = _written(tmp_path, plan_for("kubernetes", retries=2, **changes))
    checked = _run(folder, "kubernetes-validate", "--strict", "job.yaml")
    output = checked.stdout + checked.stderr
    assert (checked.returncode, output.count(" passed ")) == (0, 2), output
    (folder / "job.yaml").write_text((folder / "job.yaml").read_text().replace("completions:", "completion:"))
    assert _run(folder, "kubernetes-validate", "--strict", "job.yaml").returncode


@pytest.mark.parametrize("container", ["apptainer", "pyxis"])
def test_shellcheck_finds_nothing(tmp_path: Path, container: str):
    """shellcheck finds nothing in the scripts for Slurm and SkyPilot."""
    import yaml

    folder = _written(tmp_path, plan_for("slurm", slurm={**OPTIONS["slurm"], "container": container}))
    write_files(plan_for("skypilot"), folder)
    (folder / "sky.sh").write_text("#!/bin/bash\n" + yaml.safe_load((folder / "t4.yaml").read_text())["run"])
    checked = _run(folder, "shellcheck", "t4.sbatch", "a100-40gb.sbatch", "sky.sh")
    assert checked.returncode == 0, checked.stdout


def test_card_names_equal_rays(tmp_path: Path):
    """Each device name in env/gpus.toml is converted like by Ray's own function."""
    names = [name for gpu in load_gpus().values() for name in gpu.names]
    named = _run(tmp_path, "python", "-c", NAMES, *names)
    assert json.loads(named.stdout) == {name: accelerator_type(name) for name in names}


def test_ray_runs_a_task_on_each_node_of_a_cluster(tmp_path: Path):
    """On eight simulated nodes with one T4 each every node runs once, and reports why it cannot load without a GPU."""
    plan = plan_for("ray", results=str(tmp_path / "results"), nodes=[{"card": "T4", "count": 8}])
    write_plan(plan, _written(tmp_path, plan) / NAME)
    ran = _run(tmp_path, "python", "-c", CLUSTER)
    assert ran.returncode == 3, ran.stdout + ran.stderr
    verdict = gather_folder(tmp_path / "results", tmp_path / NAME)
    assert [(each.node, each.kind) for each in verdict.findings] == [
        (f"t4-{number}", Kind.REFUSED) for number in range(8)
    ]
    assert all("needs an NVIDIA GPU" in each.what for each in verdict.findings) and not verdict.passed


@pytest.mark.cpu
@pytest.mark.skipif(not CPU.exists(), reason=".venv/cpu is not installed; `make test` installs it")
def test_the_cpu_default_passes_through_ray(tmp_path: Path):
    """On two simulated CPU machines both nodes load at once, are gathered, and pass."""
    plan = plan_for(
        "ray",
        profile="smollm2-135m-cpu",
        image=None,
        results=str(tmp_path / "results"),
        nodes=[{"card": "cpu", "count": 2}],
    )
    write_plan(plan, _written(tmp_path, plan) / NAME)
    (packages,) = (BIN.parent / "lib").glob("python3.*/site-packages")
    environ = {**os.environ, "PYTHONPATH": str(packages)}  # which the load itself ignores
    ran = subprocess.run(
        [str(CPU), "-c", CPU_CLUSTER],
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
    verdict = gather_folder(tmp_path / "results", tmp_path / NAME)
    assert (verdict.status, verdict.counts) == ("pass", {"pass": 2}), verdict.findings
