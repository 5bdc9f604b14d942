"""Weights reach the device once, with vLLM's own iterator and torch's own default device. No GPU is needed."""

import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.gpu.test_gpu_load import PYTHON, VENV, has_gpu  # noqa: F401  # in words that pytest evaluates

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif("not VENV.exists() or has_gpu()", reason=".venv/gpu is not installed, or a load shows it"),
]

ITERATE = """
import sys
sys.path.insert(0, ROOT + "/src")
import torch
from safetensors.torch import save_file
from vllm.model_executor.model_loader.weight_utils import safetensors_weights_iterator
from loadcheck.stacks.unsloth_vllm.copy_once import copy_once
save_file({"a": torch.arange(8.0), "b": torch.ones(3, 4, dtype=torch.bfloat16)}, "w.safetensors")
with torch.device("meta"):  # in place of the card
    print("theirs:", *(weight.device for _, weight in safetensors_weights_iterator(["w.safetensors"])))
    for name, weight in copy_once(safetensors_weights_iterator)(["w.safetensors"]):
        print("ours:", name, weight.device, weight.dtype, weight.sum().item(), torch.empty(1).device)
"""


def test_a_weight_stays_on_the_cpu_until_it_is_copied(tmp_path: Path):
    """vLLM's iterator puts each weight on the default device; ours does not, and leaves that default to whoever takes the weight."""
    code = f"ROOT = {str(ROOT)!r}\n{ITERATE}"
    found = subprocess.run([PYTHON, "-B", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    lines = [line for line in found.stdout.splitlines() if line.startswith(("theirs:", "ours:"))]
    assert lines == [
        "theirs: meta meta",
        "ours: a cpu torch.float32 28.0 meta",
        "ours: b cpu torch.bfloat16 12.0 meta",
    ], found.stderr
