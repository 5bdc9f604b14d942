"""Deferred imports, and imports ahead of the plan, with the real stack. No GPU is needed."""

import json
import os
import select
import subprocess
import time
from pathlib import Path

import pytest

from loadcheck.plan import make_plan, plan_to_json
from loadcheck.running import child_environment
from loadcheck.runs.ahead import ahead
from loadcheck.runs.child import run_child
from loadcheck.runs.json_file import write_json
from loadcheck.runs.sink import LogSink
from loadcheck.specs.profile import load_profile
from tests.conftest import ROOT
from tests.gpu.test_gpu_load import PROFILE, PYTHON, VENV, has_gpu  # noqa: F401  # in words that pytest evaluates

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif("not VENV.exists() or has_gpu()", reason=".venv/gpu is not installed, or a load shows it"),
]

IMPORTS = """
import sys, types
sys.path[:0] = [ROOT + "/scripts", ROOT + "/src", ROOT]
from loadcheck.stacks import lazy_imports
from loadcheck.stacks.unsloth_vllm import engine, environment, startup, unused
environment.set_environment()
startup.defer_unused_imports()
compile = sys.modules["torch"].compile
from trace_training import pretend_gpu
pretend_gpu()
sys.modules["torch"].compile = compile  # its settings are deferred, too
from loadcheck.stacks.recorder import Recorder
engine.import_stack(Recorder())
from unsloth_zoo.vllm_utils import patch_vllm
patch_vllm()
import vllm.worker.model_runner, vllm.model_executor.models.llama, vllm.executor.uniproc_executor, transformers.models.llama.modeling_llama
real = [name for name in unused.LIBRARIES if name in sys.modules and not isinstance(sys.modules[name], lazy_imports.LazyModule)]
executed = [name for name, each in sys.modules.items()
            if name.startswith("transformers.models.") and name.count(".") == 2 and not isinstance(each, lazy_imports.LazyPackage)]
print("\\nresult:", lazy_imports.used, real, "torch._inductor.compile_fx" in sys.modules, len(executed))
import pandas, openai
print("result:", pandas.DataFrame({"a": [1, 2]}).a.sum(), issubclass(openai.OpenAI, openai._base_client.SyncAPIClient), lazy_imports.used)
import os; sys.stdout.flush(); os._exit(0)
"""


def test_the_imports_of_the_stack_use_nothing_that_is_deferred(tmp_path: Path):
    """None of the libraries is imported, nor the compiler, and only a few model families. On use, a deferred library works as usual."""
    code = f"ROOT = {str(ROOT)!r}\n{IMPORTS}"
    found = subprocess.run([PYTHON, "-B", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False,
                           env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "TRITON_LIBCUDA_PATH": str(tmp_path)})  # fmt: skip
    results = [line for line in found.stdout.splitlines() if line.startswith("result:")]
    assert len(results) == 2, found.stderr
    before, after = results
    assert before.startswith("result: [] [] False ")
    assert int(before.split()[-1]) < 30
    assert after == "result: 3 True ['pandas', 'pyarrow', 'openai']"


MAPPINGS = """
import sys, types
sys.path[:0] = [ROOT + "/src"]
from loadcheck.stacks.unsloth_vllm import unused
from transformers.models.auto import auto_factory, configuration_auto, modeling_auto
if sys.argv[1] == "deferred":
    unused.defer_configs(auto_factory)
mapping = modeling_auto.AutoModelForCausalLM._model_mapping
from transformers import LlamaConfig, Qwen2Config, ViTConfig
class Own(LlamaConfig): pass
Own.__name__ = "LlamaConfig"
class Registered(LlamaConfig): model_type = "registered"
print(LlamaConfig in mapping.keys(), sum(name.startswith("transformers.models.") and ".configuration_" in name for name in sys.modules) < 10)
print([each in mapping.keys() for each in (Qwen2Config, ViTConfig, Own, Registered, int, None)])
mapping.register(Registered, object)
every = [each for each in vars(configuration_auto).get("CONFIG_MAPPING").values()]
print([each.__name__ for each in every if each in mapping.keys()], Registered in mapping.keys(),
      [each.__name__ for each in mapping.keys()] == [each.__name__ for each in mapping.keys() + []], len(mapping.keys()), bool(mapping))
"""


def test_an_auto_class_knows_the_same_configs(tmp_path: Path):
    """The same for every family, a registered one, a class of the same name and no config at all; but only one family is imported."""
    outputs = []
    for variant in ("deferred", "plain"):
        command = [PYTHON, "-B", "-c", f"ROOT = {str(ROOT)!r}\n{MAPPINGS}", variant]
        found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)})  # fmt: skip
        outputs.append(found.stdout.splitlines())
    deferred, plain = outputs
    assert (deferred[0], plain[0]) == ("True True", "True False")
    assert deferred[1] == "[True, False, False, False, False, False]" and "LlamaConfig" in deferred[2]
    assert deferred[1:] == plain[1:]


COMPILE = """
import sys
sys.path[:0] = [ROOT + "/src"]
from loadcheck.stacks.unsloth_vllm import environment, startup
environment.set_environment()
startup.defer_unused_imports()
import torch, torch._dynamo

def norm(x):  # as vLLM compiles gemma's (vllm/model_executor/layers/layernorm.py:206-213)
    if torch.onnx.is_in_onnx_export():
        return x
    return (x * torch.rsqrt(x.pow(2).mean(dim=-1, keepdim=True) + 1e-6)).to(x.dtype)

for dynamic in (None, True):
    compiled = torch.compile(norm, dynamic=dynamic, fullgraph=True)
    print([bool(torch.allclose(compiled(x), norm(x), atol=1e-5)) for x in map(torch.randn, (8, 5), (16, 16))])
"""


def test_a_function_is_compiled_as_ever(tmp_path: Path):
    """torch's compiler needs deferred parts of torch, and has them all when it compiles."""
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    command = [PYTHON, "-B", "-c", f"ROOT = {str(ROOT)!r}\n{COMPILE}"]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=environment)
    assert found.stdout.splitlines() == ["[True, True]"] * 2, found.stderr


CHILD = """
import os, sys
sys.path[:0] = [ROOT + "/scripts", ROOT + "/src"]
from loadcheck.engines import child
from loadcheck.stacks.unsloth_vllm import device, engine, startup

def pretend():
    import torch
    compile = torch.compile
    from trace_training import pretend_gpu
    shell = os.system
    pretend_gpu()
    os.system, torch.compile = shell, compile
    print("touches the device", flush=True)

def load(*arguments):
    print("loads", flush=True)
    raise SystemExit(5)

startup.begin_context, engine.load, device._driver_version = pretend, load, lambda: "580.1"
sys.exit(child.main(sys.argv[1:]))
"""


def test_the_stack_is_imported_ahead_of_its_plan(tmp_path: Path):
    """The engine's process does not use the device until it is allowed to; given a run folder, it loads that after all imports."""
    write_json(tmp_path / "plan.json", plan_to_json(make_plan(load_profile(PROFILE, {"weights": "synthetic"}))))
    (tmp_path / "weights.json").write_text(json.dumps({"directory": str(tmp_path)}))
    engine = "loadcheck.stacks.unsloth_vllm.engine"
    command = [PYTHON, "-B", "-c", f"ROOT = {str(ROOT)!r}\n{CHILD}", "ahead", engine, str(os.getpid())]
    env = {**child_environment(), "HOME": str(tmp_path), "TRITON_LIBCUDA_PATH": str(tmp_path)}
    with ahead(command, env) as process:
        time.sleep(1)
        assert select.select([process.process.stdout], [], [], 0)[0] == []
        process.allow_device()
        sink = LogSink(tmp_path / "load.log")
        end = run_child(process.load(tmp_path), sink, lambda _: None, lambda _: None)
    log = sink.close().read_text(errors="replace")
    assert end.exit_code == 5, log
    assert (
        log.index("touches the device")
        < log.index('"event": "imported"')
        < log.index('"event": "device"')
        < log.index("\nloads")
    )
