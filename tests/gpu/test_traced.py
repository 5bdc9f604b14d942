"""The GPU's engine under an audit hook: what its imports do, and the load after them. The imports are seen without a GPU, too."""

import json
import os
import subprocess
from hashlib import sha256
from pathlib import Path

import pytest

from loadcheck.plan import make_plan, plan_to_json
from loadcheck.specs.files import read_toml
from loadcheck.specs.profile import load_profile
from tests.conftest import ROOT
from tests.gpu.test_gpu_load import PROFILE, PYTHON, VENV, has_gpu  # noqa: F401  # in words that pytest evaluates
from tests.traces import Trace, trace

WEIGHTS = ROOT / "build" / "test-weights"
DOCKERS_SHM_BYTES = 64 << 20
"""Of a container that asks for no more."""

pytestmark = [pytest.mark.gpu, pytest.mark.xdist_group("real loads")]
on_a_gpu = pytest.mark.skipif("not has_gpu()", reason="this machine has no usable NVIDIA GPU")
on_none = pytest.mark.skipif(
    "not VENV.exists() or has_gpu()", reason=".venv/gpu is not installed, or the load itself is traced"
)


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    """A load with synthetic weights, made beforehand in a process of its own."""
    folder = tmp_path_factory.mktemp("traced")
    (folder / "run").mkdir()
    plan = make_plan(load_profile(PROFILE, {"weights": "synthetic"}))
    (folder / "run" / "plan.json").write_text(json.dumps(plan_to_json(plan)))
    assert trace(PYTHON, folder, "run", "{RUN}", "prepare", weights=WEIGHTS).code == 0
    for path in (folder / "home").iterdir():
        path.rename(folder / f"before-{path.name}")
    return trace(PYTHON, folder, "run", "{RUN}", "load", weights=WEIGHTS)


@on_a_gpu
def test_a_load_was_traced_to_its_end(load: Trace):
    """It ended well, its stages are known, and a pickle after it is seen."""
    assert load.code == 0 and load.control == ["pickle"]
    assert {each.stage for each in load.seen} > {""}


@on_a_gpu
def test_the_imports_of_a_load_do_nothing_unexplained(load: Trace):
    """They write nothing that is installed, reach no network, look up no pickle; what else they do is in tests/traced.toml."""
    assert load.imports() == []


@on_a_gpu
def test_a_load_does_nothing_unexplained(load: Trace):
    """After its imports it writes where it may, and reaches nothing."""
    assert load.load() == []


@on_a_gpu
def test_a_load_leaves_its_home_and_its_folder_alone(load: Trace):
    """Beside caches, which C++ writes too, nothing is left in either."""
    assert {path.name for path in Path(load.places["HOME"]).iterdir()} <= {".cache", ".triton", ".nv"}
    assert list(Path(load.places["CWD"]).iterdir()) == []


@on_a_gpu
def test_a_load_opens_no_port(load: Trace):
    """It listens on loopback at most."""
    assert load.listened == set()


@on_a_gpu
def test_dockers_own_shm_is_enough(load: Trace):
    """Less than half of it is ever in use, by whoever uses it."""
    assert load.shm_bytes < DOCKERS_SHM_BYTES / 2


@on_none
def test_the_imports_do_nothing_unexplained_without_a_gpu(tmp_path: Path):
    """The same imports with torch's answers of a card, in a present folder that stays empty."""
    found = trace(PYTHON, tmp_path, "imports", TRITON_LIBCUDA_PATH=str(tmp_path))
    assert found.code == 0 and found.control == ["pickle"]
    assert "unsloth/__init__.py" in {each.by for each in found.seen}
    assert found.imports() + found.load() == []
    assert list(Path(found.places["CWD"]).iterdir()) == []


STORE = """
import sys, torch, vllm
from loadcheck.stacks.unsloth_vllm import closed
if sys.argv[1] == "ours": closed.keep_store_in_process(torch.distributed)
from vllm.distributed import parallel_state
from vllm.utils import get_distributed_init_method, get_open_port
parallel_state.init_distributed_environment(1, 0, get_distributed_init_method("127.0.0.1", get_open_port()), 0, "gloo")
parallel_state.initialize_model_parallel(1, 1, "gloo")
import psutil
addresses = {each.laddr.ip for each in psutil.Process().net_connections("inet") if each.status == "LISTEN"}
summed = torch.ones(3); torch.distributed.all_reduce(summed)
print("\\n" + " ".join(sorted(addresses - {"127.0.0.1", "::1"})), summed.tolist())
"""


@pytest.mark.skipif("not VENV.exists()", reason=".venv/gpu is not installed")
@pytest.mark.parametrize(("whose", "listens"), [("ours", ""), ("torch", ":: ")])
def test_a_group_of_vllm_has_its_store_in_memory(tmp_path: Path, whose: str, listens: str):
    """vLLM's own start of a group listens on all interfaces; ours does not, and the group works."""
    environment = {"VLLM_HOST_IP": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo"}
    said = subprocess.run(
        [PYTHON, "-B", "-c", STORE, whose],
        env={**os.environ, **environment},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.splitlines()[-1].strip() == f"{listens}[1.0, 1.0, 1.0]"


@pytest.mark.skipif("not VENV.exists()", reason=".venv/gpu is not installed")
def test_the_edit_of_unsloth_was_made_at_the_installation():
    """With the bytes that were reviewed, in a file that no cache shares: its import opens the file, and has nothing to write."""
    (entry,) = read_toml(ROOT / "env" / "image.toml")["patch"]
    (path,) = VENV.parents[1].glob(f"lib/python3.*/site-packages/{entry['path']}")
    assert sha256(path.read_bytes()).hexdigest() == entry["sha256_after"]
    assert path.stat().st_nlink == 1
