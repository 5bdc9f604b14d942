"""All GPUs of this host at once, each pinned by its UUID: no load disturbs another."""

import json
import os
import subprocess
from pathlib import Path
from shutil import which

import pytest

from loadcheck.device import PIN, read_gpus
from loadcheck.specs.gpu import find_gpu
from tests.conftest import ROOT
from tests.gpu.kept import keep
from tests.gpu.test_gpu_load import PROFILE, PYTHON, has_gpu

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.xdist_group("real loads"),
    pytest.mark.skipif("not has_gpu()", reason="this machine has no usable NVIDIA GPU"),
]

# For a machine without nvidia-smi: the memory in use on every GPU, or on the named one, as `nvidia-smi --query-gpu=memory.used` prints it.
SMI = """\
#!{python}
import sys
import pynvml as nvml
nvml.nvmlInit()
named = [word.removeprefix("--id=") for word in sys.argv if word.startswith("--id=")]
handles = [nvml.nvmlDeviceGetHandleByIndex(number) for number in range(nvml.nvmlDeviceGetCount())]
if named:
    handles = [handles[int(named[0])] if named[0].isdecimal() else nvml.nvmlDeviceGetHandleByUUID(named[0])]
print("memory.used [MiB]")
for handle in handles:
    print(nvml.nvmlDeviceGetMemoryInfo(handle).used // 2**20, "MiB")
"""
SETTINGS = 'settings = { weights = "synthetic" }'
__all__ = ["has_gpu"]


def _gpus() -> list[tuple[str, str]]:
    """UUID and card of each GPU, read in the stack's environment, as this one may have no NVML."""
    code = "import json; from loadcheck.device import read_gpus; print(json.dumps(read_gpus()))"
    found = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, check=True).stdout
    return [(uuid, find_gpu(name) or name) for uuid, name in (json.loads(found) or read_gpus())]


def _environment(folder: Path) -> dict[str, str]:
    """With an nvidia-smi, by which unsloth queries all GPUs of the host; where there is none, a script that asks NVML.

    Gigabytes of weights are made once for all sessions, on the checkout's disk, as /tmp may be in memory.
    """
    if which("nvidia-smi") is None:
        folder.mkdir()
        (folder / "nvidia-smi").write_text(SMI.format(python=PYTHON))
        (folder / "nvidia-smi").chmod(0o755)
    cache = str(ROOT / "build" / "test-weights")
    return {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "LOADCHECK_CACHE": cache}


@pytest.mark.skipif(
    "'TESTS_GPU' in os.environ", reason="needs every GPU of the host, but these tests are pinned to one"
)
def test_every_gpu_of_this_host_passes_at_once(tmp_path: Path):
    """One node for each GPU, side by side: each on its own GPU, and judged by its own free memory."""
    gpus, environ = _gpus(), _environment(tmp_path / "bin")
    groups = "".join(f'[[nodes]]\ncard = "{card}"\n' for _, card in gpus)
    results = tmp_path / "results"
    (tmp_path / "FLEET.toml").write_text(
        f'name = "all"\nengine = "local"\nprofile = "{PROFILE}"\nresults = "{results}"\n{SETTINGS}\n{groups}'
    )
    fleet = [PYTHON, "-m", "loadcheck", "fleet"]
    assert PIN not in environ
    planned = subprocess.run(
        [*fleet, "plan", "FLEET.toml", "--out", "plan"],
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert planned.returncode == 0, planned.stdout + planned.stderr
    run = subprocess.run(
        [*fleet, "run", "plan", "--json"], cwd=tmp_path, env=environ, capture_output=True, text=True, check=False
    )
    for folder in (tmp_path / "plan", results):
        keep(folder, f"fleet-of-{len(gpus)}/{folder.name}")
    assert run.stdout, run.stderr
    output = json.loads(run.stdout)
    printed = {path.name: path.read_text()[-2000:] for path in (tmp_path / "plan").glob("*.out")}
    assert (run.returncode, output["counts"]) == (0, {"pass": len(gpus)}), (output["findings"], printed)
    records = [json.loads(path.read_text()) for path in results.glob("*/*/run.json")]
    assert {record["machine"]["gpu"]["uuid"] for record in records} == {uuid for uuid, _ in gpus}
