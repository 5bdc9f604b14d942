"""The LoRA kernels compiled during the imports are those that vLLM's own wrapper needs. No GPU is needed."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from loadcheck.plan import make_plan, plan_to_json
from loadcheck.running import child_environment
from loadcheck.runs.ahead import ahead
from loadcheck.runs.child import run_child
from loadcheck.runs.json_file import write_json
from loadcheck.runs.sink import LogSink
from loadcheck.specs.profile import load_profile
from loadcheck.stacks.unsloth_vllm.kernel_compiler import MODULE, Sizes
from tests.conftest import ROOT
from tests.gpu.test_gpu_load import PROFILE, PYTHON, VENV, has_gpu  # noqa: F401  # in words that pytest evaluates
from tests.gpu.test_unused import CHILD

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not VENV.exists() or shutil.which("gcc") is None, reason="needs .venv/gpu, and gcc as Triton does"
    ),
]

SYMBOLS = (
    "cuLaunchKernel", "cuLaunchKernelEx", "cuModuleLoadData", "cuModuleGetFunction", "cuFuncGetAttribute", "cuFuncSetCacheConfig",
    "cuFuncSetAttribute", "cuCtxGetCurrent", "cuCtxSetCurrent", "cuGetErrorString", "cuPointerGetAttribute", "cuCtxSetLimit", "cuCtxGetLimit",
    "cuOccupancyMaxActiveClusters", "cuTensorMapEncodeTiled", "cuDeviceGet", "cuDeviceGetAttribute", "cuDevicePrimaryCtxRetain", "cuInit",
)  # fmt: skip

WRAPPER = """
import json, os, sys
import torch
from triton.runtime.driver import driver
from loadcheck.stacks.unsloth_vllm.kernels import compiling_driver
from vllm.lora.ops.triton_ops import bgmv_expand, bgmv_expand_slice, bgmv_shrink, sgmv_expand, sgmv_shrink
from vllm.lora.punica_wrapper import punica_gpu
for name in ("bgmv_expand", "bgmv_expand_slice", "bgmv_shrink", "sgmv_expand", "sgmv_shrink"):
    module = sys.modules[f"vllm.lora.ops.triton_ops.{name}"]
    setattr(punica_gpu, name, getattr(module, f"_{name}"))  # which torch.ops would call on a device
sizes = json.loads(sys.argv[1])
driver.set_active(compiling_driver(sizes["capability"]))
rank, hidden, linears = sizes["rank"], sizes["hidden_size"], sizes["linears"]
tensor = lambda *shape: torch.empty(shape, dtype=torch.bfloat16)
vocab = (sizes["vocab_size"] + 256 + 255) // 256 * 256
stacked = {name: (tensor(1, 1, rank, i), tensor(1, 1, o, rank)) for name, (i, o) in linears.items()}
embedding, head = tensor(1, 1, hidden, rank), (tensor(1, 1, rank, hidden), tensor(1, 1, vocab, rank))
wrapper = punica_gpu.PunicaWrapperGPU(512, 256, device="cpu")
wrapper.no_lora = False
for is_prefill, tokens, batch in ((True, 512, 2), (True, 37, 1), (False, 256, 256), (False, 24, 24), (False, 1, 1)):
    wrapper.is_prefill, wrapper.batch_size, wrapper.max_length, wrapper.token_nums = is_prefill, batch, 256, tokens
    wrapper.indices_len = [tokens, batch, batch, tokens, None]
    wrapper.add_lora_embedding(tensor(tokens, hidden), tensor(tokens, rank), embedding, add_input=True)
    for names in (("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",)):
        outs = tuple(linears[name][1] for name in names)
        a, b = (tuple(stacked[name][each] for name in names) for each in (0, 1))
        wrapper.add_lora_linear(tensor(tokens, sum(outs)), tensor(tokens, linears[names[0]][0]), a, b, None, 1.0, outs)
    wrapper.add_lora_logits(tensor(batch, vocab), tensor(batch, hidden), *head, 1.0)
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An empty Triton cache, and a driver library whose functions do nothing."""
    folder = tmp_path_factory.mktemp("driver")
    source = folder / "cuda.c"
    source.write_text("".join(f"int {name}(void) {{ return 0; }}\n" for name in SYMBOLS))
    subprocess.run(["gcc", "-shared", "-fPIC", "-w", "-o", folder / "libcuda.so.1", source], check=True)
    (folder / "libcuda.so").symlink_to("libcuda.so.1")
    return {**os.environ, "PYTHONPATH": str(ROOT / "src"), "LD_LIBRARY_PATH": str(folder), "TRITON_LIBCUDA_PATH": str(folder),
            "TRITON_CACHE_DIR": str(folder / "cache"), "HOME": str(folder), "VLLM_NO_USAGE_STATS": "1"}  # fmt: skip


@pytest.mark.parametrize(("model", "rank"), [("llama-3.1-8b-instruct", 32), ("qwen2.5-1.5b-instruct", 16)])
def test_what_vllm_asks_for_is_compiled(environment: dict[str, str], model: str, rank: int):
    """After that process, vLLM's kernel wrapper compiles nothing more, in prefill or decode, whatever the batch."""
    plan = make_plan(load_profile(PROFILE, {"model": model, "weights": "synthetic"}))
    sizes = Sizes.of(plan.config, rank, 90)
    cache = Path(environment["TRITON_CACHE_DIR"])
    subprocess.run([PYTHON, "-m", MODULE, sizes.to_json()], env=environment, check=True)
    compiled = {path.parent.name for path in cache.glob("*/*")}
    kernels = sum(1 for path in cache.glob("*/*.cubin"))
    assert kernels >= 11
    assert list(cache.glob("loadcheck-*"))
    subprocess.run([PYTHON, "-c", WRAPPER, json.dumps(json.loads(sizes.to_json()))], env=environment, check=True)
    assert {path.parent.name for path in cache.glob("*/*")} - compiled == set()


ENGINE = """
import os, sys
from loadcheck.stacks.unsloth_vllm import kernel_compiler, startup
kernel_compiler.device_capability = lambda: 90
begin = startup.begin_context
def pin_then_begin():
    startup._PINNED.set()
    begin()
startup.begin_context = pin_then_begin
kernel_compiler.KernelCompiler.finish_ = kernel_compiler.KernelCompiler.finish
def finish(self):
    self.finish_(600)  # a busy machine compiles for longer than a load waits
    print("kernels:", os.listdir(os.environ["TRITON_CACHE_DIR"]), flush=True)
kernel_compiler.KernelCompiler.finish = finish
"""


@pytest.mark.skipif("has_gpu()", reason="a load shows it")
def test_the_engine_waits_for_its_kernels_before_it_looks_at_the_memory(environment: dict[str, str], tmp_path: Path):
    """With real imports: the compiling process has succeeded before the device and the RAM are read."""
    write_json(tmp_path / "plan.json", plan_to_json(make_plan(load_profile(PROFILE, {"weights": "synthetic"}))))
    (tmp_path / "weights.json").write_text(json.dumps({"directory": str(tmp_path)}))
    code = f"ROOT = {str(ROOT)!r}\n{CHILD}".replace("sys.exit(", f"{ENGINE}\nsys.exit(")
    command = [PYTHON, "-B", "-c", code, "ahead", "loadcheck.stacks.unsloth_vllm.engine", str(os.getpid())]
    cache = tmp_path / "cache"
    env = {**child_environment(), **environment, "TRITON_CACHE_DIR": str(cache)}
    with ahead(command, env) as process:
        process.allow_device()
        sink = LogSink(tmp_path / "load.log")
        end = run_child(process.load(tmp_path), sink, lambda _: None, lambda _: None)
    log = sink.close().read_text(errors="replace")
    assert end.exit_code == 5, log
    assert log.index('"event": "imported"') < log.index("kernels: [") < log.index('"event": "device"')
    assert "loadcheck-" in log[log.index("kernels: [") :].splitlines()[0]
