"""The GPU engine under an audit hook: what its imports do, and the load after them. The imports are also tested without a GPU."""

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
from tests.gpu.kept import keep
from tests.gpu.test_gpu_load import PROFILE, PYTHON, VENV, has_gpu  # noqa: F401  # in words that pytest evaluates
from tests.traces import Trace, trace

WEIGHTS = ROOT / "build" / "test-weights"
DOCKERS_SHM_BYTES = 64 << 20
"""The size of /dev/shm in a container by default."""

UNREACHED_MODULES = (
    "aiohttp.web", "starlette", "fastapi", "uvicorn", "ray.data", "ray.dashboard", "ray.serve", "vllm.entrypoints.openai.api_server",
    "pyasn1", "pygments.lexers.archetype", "pytest", "dotenv", "virtualenv", "wheel", "setuptools.package_index", "setuptools.command.sdist",
    *(f"PIL.{name}" for name in ("PsdImagePlugin", "FitsImagePlugin", "PdfParser", "FontFile", "PcfFontFile", "BdfFontFile", "GdImageFile",
                                 "ImageShow", "ImageCms", "TgaImagePlugin", "Jpeg2KImagePlugin", "McIdasImagePlugin")),
    "transformers.testing_utils", "transformers.modeling_tf_pytorch_utils", "transformers.optimization_tf", "transformers.models.deprecated.transfo_xl",
    *(f"transformers.models.{name}" for name in (
        "perceiver.convert_perceiver_haiku_to_pytorch", "megatron_gpt2.checkpoint_reshaping_and_interoperability",
        "megatron_gpt2.convert_megatron_gpt2_checkpoint", "sew.convert_sew_original_pytorch_checkpoint_to_pytorch",
        "sew_d.convert_sew_d_original_pytorch_checkpoint_to_pytorch", "hubert.convert_hubert_original_pytorch_checkpoint_to_pytorch",
        "x_clip.convert_x_clip_original_pytorch_to_hf", "donut.processing_donut", "marian.tokenization_marian",
        "gpt_neox_japanese.tokenization_gpt_neox_japanese", "whisper.english_normalizer")),
)  # fmt: skip
"""env/vex.toml says that the vulnerabilities of these modules are not reached."""

pytestmark = [pytest.mark.gpu, pytest.mark.xdist_group("real loads")]
with_gpu = pytest.mark.skipif("not has_gpu()", reason="this machine has no usable NVIDIA GPU")
without_gpu = pytest.mark.skipif(
    "not VENV.exists() or has_gpu()", reason=".venv/gpu is not installed, or the load itself is traced"
)


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    """A load with synthetic weights, which another process made beforehand."""
    folder = tmp_path_factory.mktemp("traced")
    (folder / "run").mkdir()
    plan = make_plan(load_profile(PROFILE, {"weights": "synthetic"}))
    (folder / "run" / "plan.json").write_text(json.dumps(plan_to_json(plan)))
    assert trace(PYTHON, folder, "run", "{RUN}", "prepare", weights=WEIGHTS).code == 0
    for path in (folder / "home").iterdir():
        path.rename(folder / f"before-{path.name}")
    try:
        return trace(PYTHON, folder, "run", "{RUN}", "load", weights=WEIGHTS)
    finally:
        for name in ("trace.json", "output"):
            if (folder / name).exists():
                keep(folder / name, "traced")


@with_gpu
def test_a_load_was_traced_to_its_end(load: Trace):
    """It succeeded, its stages are known, and the hook still sees a pickle after it."""
    assert load.code == 0 and load.control == ["pickle"]
    assert {each.stage for each in load.seen} > {""}


@with_gpu
def test_the_imports_of_a_load_do_nothing_unexplained(load: Trace):
    """They write no installed file, use no network and load no pickle; anything else that they do is in tests/traced.toml."""
    assert load.imports() == []


@with_gpu
def test_a_load_does_nothing_unexplained(load: Trace):
    """After its imports it writes only where it may, and uses no network."""
    assert load.load() == []


@with_gpu
def test_a_load_leaves_its_home_and_its_folder_alone(load: Trace):
    """It leaves nothing in either except caches, some of which C++ writes."""
    assert {path.name for path in Path(load.places["HOME"]).iterdir()} <= {".cache", ".triton", ".nv"}
    assert list(Path(load.places["CWD"]).iterdir()) == []


@with_gpu
def test_a_load_opens_no_port(load: Trace):
    """It listens on loopback only, if at all."""
    assert load.listened == set()


@with_gpu
def test_dockers_own_shm_is_enough(load: Trace):
    """Less than half of it is ever in use, by all users together."""
    assert load.shm_bytes < DOCKERS_SHM_BYTES / 2


@pytest.fixture(scope="module")
def imports(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    """The imports of a load, with simulated answers of torch about a card."""
    folder = tmp_path_factory.mktemp("imports")
    return trace(PYTHON, folder, "imports", TRITON_LIBCUDA_PATH=str(folder))


@without_gpu
def test_the_imports_do_nothing_unexplained_without_a_gpu(imports: Trace):
    """The working directory stays empty."""
    assert imports.code == 0 and imports.control == ["pickle"]
    assert "unsloth/__init__.py" in {each.by for each in imports.seen}
    assert imports.imports() + imports.load() == []
    assert list(Path(imports.places["CWD"]).iterdir()) == []


@without_gpu
def test_what_holes_need_is_not_imported(imports: Trace):
    """The modules that env/vex.toml names as unreached, and their submodules."""
    assert {"unsloth", "vllm", "PIL.Image", "setuptools"} <= set(imports.modules)
    found = [name for name in imports.modules if any(f"{name}.".startswith(f"{each}.") for each in UNREACHED_MODULES)]
    assert found == []


STORE = """
import sys, torch, vllm
from loadcheck.stacks.unsloth_vllm import isolation
if sys.argv[1] == "ours": isolation.keep_store_in_process(torch.distributed)
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
@pytest.mark.parametrize(("variant", "listens"), [("ours", ""), ("torch", ":: ")])
def test_a_group_of_vllm_has_its_store_in_memory(tmp_path: Path, variant: str, listens: str):
    """A group that vLLM starts listens on all interfaces; ours does not, and it works."""
    environment = {"VLLM_HOST_IP": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo"}
    completed = subprocess.run(
        [PYTHON, "-B", "-c", STORE, variant],
        env={**os.environ, **environment},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert completed.stdout.splitlines()[-1].strip() == f"{listens}[1.0, 1.0, 1.0]"


@pytest.mark.skipif("not VENV.exists()", reason=".venv/gpu is not installed")
def test_the_edit_of_unsloth_was_made_at_the_installation():
    """The file has the reviewed bytes and no link from a cache: importing it opens the file, but has nothing to write."""
    (entry,) = read_toml(ROOT / "env" / "image.toml")["patch"]
    (path,) = VENV.parents[1].glob(f"lib/python3.*/site-packages/{entry['path']}")
    assert sha256(path.read_bytes()).hexdigest() == entry["sha256_after"]
    assert path.stat().st_nlink == 1
