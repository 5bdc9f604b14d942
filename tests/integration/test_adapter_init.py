"""Drawing the adapters' first weights ahead gives peft's own, with the real torch and peft of the CPU environment."""

import json
import os
import subprocess
from typing import Any

import pytest

from loadcheck.plan import make_plan
from loadcheck.specs.profile import load_profile
from loadcheck.stacks.unsloth_vllm.adapter_init import init_shapes
from tests.conftest import ROOT

PYTHON = ROOT / ".venv" / "cpu" / "bin" / "python"
CODE = """
import hashlib, json, sys
from types import SimpleNamespace
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM
from loadcheck.stacks.unsloth_vllm import adapter_init

SIZES = {"q_proj": (64, 64), "k_proj": (64, 32), "v_proj": (64, 32), "o_proj": (64, 64),
         "gate_proj": (64, 96), "up_proj": (64, 96), "down_proj": (96, 64)}
CONFIG = LlamaConfig(vocab_size=50, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2)

def attached(targets, seed, ahead):
    torch.manual_seed(0)
    model = LlamaForCausalLM(CONFIG)
    shape = SimpleNamespace(linears=SIZES, num_hidden_layers=2)
    thread = adapter_init.AdapterInit(ahead, adapter_init.init_shapes(shape, SimpleNamespace(r=8, target_modules=targets)))
    torch.set_default_dtype(torch.bfloat16)  # as vLLM does while it loads
    thread.begin(); thread.begin(); thread.join()
    torch.set_default_dtype(torch.float32)
    torch.manual_seed(seed)
    if ahead < 0:
        model = get_peft_model(model, LoraConfig(r=8, target_modules=list(targets)))
    else:
        with thread.replay():
            model = get_peft_model(model, LoraConfig(r=8, target_modules=list(targets)))
            left = len(thread._draws)
    digest = hashlib.sha256()
    for name, weight in sorted(model.named_parameters()):
        digest.update(name.encode() + weight.detach().numpy().tobytes())
    return digest.hexdigest(), torch.rand(3).tolist(), left if ahead >= 0 else None

targets, seed, ahead = json.loads(sys.argv[1])
plain = attached(targets, seed, -1)
ours = attached(targets, seed, ahead)
print("said:", json.dumps([plain[:2] == ours[:2], ours[2]]))
"""


def run(*arguments: Any) -> Any:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    found = subprocess.run([PYTHON, "-c", CODE, json.dumps(arguments)], env=environment, capture_output=True, text=True, check=True)  # fmt: skip
    return json.loads(found.stdout.split("said:")[1])


ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@pytest.mark.cpu
@pytest.mark.skipif(not PYTHON.exists(), reason=".venv/cpu is not installed; `make test` installs it")
@pytest.mark.parametrize(
    ("targets", "seed", "ahead", "left"),
    [(ALL, 3407, 3407, 0), (("v_proj", "down_proj"), 1, 1, 0), (ALL, 3407, 3408, 42)],
)
def test_weights_drawn_ahead_equal_pefts(targets: tuple[str, ...], seed: int, ahead: int, left: int):
    """Every weight and the generator's state afterwards are equal to the byte, whatever torch's default type was; with another seed peft draws itself."""
    assert run(targets, seed, ahead) == [True, left]


def test_each_adapter_is_drawn_three_times_in_the_order_of_the_layers():
    """For each target of a layer A, B and A again are drawn."""
    plan = make_plan(load_profile("llama31-8b-instruct-4bit", {}))
    assert plan.profile.adapters is not None
    found = init_shapes(plan.config, plan.profile.adapters)
    assert len(found) == 32 * 7 * 3
    assert found[:6] == [(32, 4096), (4096, 32), (32, 4096), (32, 4096), (1024, 32), (32, 4096)]
    assert found[-3:] == [(32, 14336), (4096, 32), (32, 14336)]
