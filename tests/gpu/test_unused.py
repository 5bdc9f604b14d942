"""What a load's imports put off, on the stack itself; seen without a GPU."""

import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.gpu.test_gpu_load import PYTHON, VENV, has_gpu  # noqa: F401  # in words that pytest evaluates

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif("not VENV.exists() or has_gpu()", reason=".venv/gpu is not installed, or a load shows it"),
]

CODE = """
import sys, types
sys.path[:0] = [ROOT + "/scripts", ROOT + "/src", ROOT]
from loadcheck.stacks import later
from loadcheck.stacks.unsloth_vllm import engine, startup, unused
engine.set_environment()
startup.put_off_unused()
compile = sys.modules["torch"].compile
from trace_training import pretend_gpu
pretend_gpu()
sys.modules["torch"].compile = compile  # whose settings are put off, too
from loadcheck.stacks.recorder import Recorder
engine.import_stack(Recorder())
from unsloth_zoo.vllm_utils import patch_vllm
patch_vllm()
import vllm.worker.model_runner, vllm.model_executor.models.llama, vllm.executor.uniproc_executor, transformers.models.llama.modeling_llama
real = [name for name in unused.LIBRARIES if name in sys.modules and not isinstance(sys.modules[name], later.LaterModule)]
executed = [name for name, each in sys.modules.items()
            if name.startswith("transformers.models.") and name.count(".") == 2 and not isinstance(each, later.NamedPackage)]
print("\\nsaid:", later.used, real, "torch._inductor.compile_fx" in sys.modules, len(executed))
import pandas, openai
print("said:", pandas.DataFrame({"a": [1, 2]}).a.sum(), issubclass(openai.OpenAI, openai._base_client.SyncAPIClient), later.used)
import os; sys.stdout.flush(); os._exit(0)
"""


def test_the_imports_of_the_stack_use_nothing_that_is_put_off(tmp_path: Path):
    """Not one of the libraries is imported, nor the compiler, and a few families of models alone; what is used then works as ever."""
    code = f"ROOT = {str(ROOT)!r}\n{CODE}"
    found = subprocess.run([PYTHON, "-B", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False,
                           env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "TRITON_LIBCUDA_PATH": str(tmp_path)})  # fmt: skip
    said = [line for line in found.stdout.splitlines() if line.startswith("said:")]
    assert len(said) == 2, found.stderr
    before, after = said
    assert before.startswith("said: [] [] False ")
    assert int(before.split()[-1]) < 30
    assert after == "said: 3 True ['pandas', 'pyarrow', 'openai']"
