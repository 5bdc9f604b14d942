"""A real training on the CPU: SmolLM2 in 4-bit with trl's SFTTrainer, killed, and resumed to the same bits."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import psutil
import pytest

from loadcheck.runs.checkpoints import check_whole, checkpoints
from loadcheck.runs.steps import Step, read_steps
from tests.conftest import ROOT

LOADCHECK = ROOT / ".venv" / "cpu" / "bin" / "loadcheck"

pytestmark = [
    pytest.mark.cpu,
    pytest.mark.xdist_group("real loads"),
    pytest.mark.skipif(not LOADCHECK.exists(), reason=".venv/cpu is not installed; `make test` installs it"),
]


def _start(*arguments: str | Path) -> subprocess.Popen[str]:
    command = [str(LOADCHECK), "train", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example's first rows."""
    path = tmp_path_factory.mktemp("data") / "rows.jsonl"
    path.write_text("".join((ROOT / "examples" / "glossary.jsonl").read_text().splitlines(keepends=True)[:4]))
    return path


def _arguments(data: Path, folder: Path) -> tuple[str | Path, ...]:
    more = ("--max-steps", "8", "--save-steps", "2", "--lora-r", "8", "--learning-rate", "1e-3")
    return ("smollm2-135m-cpu", "--data", data, "--run-dir", folder, *more)


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, dict[str, Any], Path]:
    """A complete training: its exit code, JSON and run folder."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    process = _start(*_arguments(data, folder), "--json")
    out, _ = process.communicate(timeout=1200)
    return process.returncode, json.loads(out), folder


def test_a_training_passes(trained: tuple[int, dict[str, Any], Path]):
    """Exit 0: the loss fell, the memory was as predicted, the adapters are in peft's format, and `check` agrees."""
    code, document, folder = trained
    assert (code, document["verdict"]) == (0, "pass"), document["findings"]
    figures = {finding["figure"]: finding["status"] for finding in document["findings"]}
    wanted = (
        "loss",
        "template",
        "labels",
        "base weights",
        "adapter weights",
        "stopping",
        "train_peak_host_gib",
        "weights_gib",
    )
    assert {figures[name] for name in wanted} == {"ok"}
    assert {path.name for path in (folder / "adapter").iterdir()} >= {
        "adapter_model.safetensors",
        "adapter_config.json",
    }
    assert subprocess.run([LOADCHECK, "check", folder], capture_output=True, check=False).returncode == 0


def _losses(steps: list[Step]) -> list[tuple[int, float | None, float]]:
    return [(step.step, step.loss, step.learning_rate) for step in steps]


def test_a_killed_training_resumes_to_the_same_bits(
    data: Path, trained: tuple[int, dict[str, Any], Path], tmp_path: Path
):
    """After kill -9 of the training process, --resume gives the losses and adapters of an uninterrupted run."""
    killed, resumed = tmp_path / "killed", tmp_path / "resumed"
    process = _start(*_arguments(data, killed))
    while len(read_steps(killed / "steps.jsonl")) < 3 and process.poll() is None:
        try:
            process.wait(0.1)
        except subprocess.TimeoutExpired:
            continue
    psutil.Process(process.pid).children()[0].kill()
    process.communicate(timeout=300)
    assert process.returncode == 1
    for checkpoint in checkpoints(killed / "checkpoints"):
        check_whole(checkpoint)
    process = _start("--resume", killed, "--run-dir", resumed, "--json")
    out, err = process.communicate(timeout=1200)
    assert process.returncode == 0, out + err
    assert _losses(read_steps(resumed / "steps.jsonl")) == _losses(read_steps(trained[2] / "steps.jsonl"))
    whole, again = (folder / "adapter" / "adapter_model.safetensors" for folder in (trained[2], resumed))
    assert whole.read_bytes() == again.read_bytes()


def test_trained_adapters_are_exported_verified_and_asked(trained: tuple[int, dict[str, Any], Path], tmp_path: Path):
    """The exported adapters and merged model answer like the trained model; a tampered export fails; the adapters can be asked."""
    for form, limit in (((), 0.1), (("--merged",), 0.3)):
        out = tmp_path / f"export{len(form)}"
        code, document = _run_json("export", trained[2], out, *form)
        assert (code, document["verdict"]) == (0, "pass"), document
        found = document["comparison"]
        assert found["distance"] < limit < found["base_distance"] / 10
    assert (tmp_path / "export0" / "adapter_model.safetensors").read_bytes() == (
        trained[2] / "adapter" / "adapter_model.safetensors"
    ).read_bytes()
    code, document = _run_json(
        "generate", tmp_path / "export0", "--prompt", "What is the KV cache?", "--max-new-tokens", "4"
    )
    assert (code, 0 < document["num_new_tokens"] <= 4) == (0, True)
    assert _run_json("export", "--verify", tmp_path / "export0")[0] == 0
    weights = tmp_path / "export0" / "adapter_model.safetensors"
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(changed)
    assert _run_json("export", "--verify", tmp_path / "export0")[0] == 1


def _run_json(*arguments: str | Path) -> tuple[int, dict[str, Any]]:
    """The exit code and JSON document of a command."""
    ended = subprocess.run([LOADCHECK, *arguments, "--json"], capture_output=True, text=True, check=False, timeout=1200)
    return ended.returncode, json.loads(ended.stdout)


def test_a_packed_training_passes(data: Path, tmp_path: Path):
    """Four examples in four rows of 64 tokens: each step's batch is full, as predicted, and the effect of packing is printed and judged."""
    folder = tmp_path / "run"
    process = _start(*_arguments(data, folder), "--packing", "--train-seq-length", "64", "--json")
    out, err = process.communicate(timeout=1200)
    document = json.loads(out)
    assert (process.returncode, document["verdict"]) == (0, "pass"), err
    figures = {finding["figure"]: finding for finding in document["findings"]}
    assert {
        figures[name]["status"] for name in ("rows", "labels", "template", "loss", "stopping", "train_peak_host_gib")
    } == {"ok"}
    assert "4 examples packed into 4 rows of 64 tokens" in figures["rows"]["why"]
    assert {(step.num_tokens, step.longest_tokens) for step in read_steps(folder / "steps.jsonl")} == {(64, 64)}


PACKED = """
import random, tempfile
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer
from loadcheck.stacks.packing import pack
from loadcheck.stacks.rows import TokenRow
words = Tokenizer(WordLevel({"<pad>": 0, "</s>": 2}, "<pad>"))
tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>", pad_token="<pad>")
rows = [[10 + number] * (3 + number % 7) for number in range(40)]
shape = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1, vocab_size=64)
with tempfile.TemporaryDirectory() as folder:
    config = SFTConfig(folder, packing=True, max_seq_length=16, per_device_train_batch_size=3, use_cpu=True, report_to="none")
    random.seed(7)
    dataset = Dataset.from_dict({"input_ids": rows})
    trainer = SFTTrainer(LlamaForCausalLM(LlamaConfig(**shape)), config, train_dataset=dataset, processing_class=tokenizer)
    theirs = sorted(each["input_ids"] for each in trainer.train_dataset)
    batch = next(iter(trainer.get_train_dataloader()))
ours = pack([TokenRow(number, row, row, ends_answer=False) for number, row in enumerate(rows)], 16, 2, seed=7)
print("same rows", theirs == sorted(row.input_ids for row in ours.rows), len(theirs))
print("batch", {name: (str(each.dtype), tuple(each.shape)) for name, each in sorted(batch.items())}, batch["attention_mask"].all().item())
"""


def test_packed_rows_equal_trls(tmp_path: Path):
    """trl's own SFTTrainer with packing=True has our ids in each row, and our batches of ids, labels and a mask of ones."""
    env = {**os.environ, "HF_HOME": str(tmp_path)}
    python = LOADCHECK.with_name("python")
    output = subprocess.run(
        [python, "-c", PACKED], capture_output=True, text=True, check=True, timeout=600, env=env
    ).stdout
    batch = {name: ("torch.int64", (3, 16)) for name in ("attention_mask", "input_ids", "labels")}
    assert output.splitlines()[-2:] == ["same rows True 17", f"batch {batch} True"]


SEEDS = """
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM
from loadcheck.errors import BadInput
from loadcheck.stacks.preflight import check_adapters, check_seeded
shape = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1, vocab_size=8)
lora = LoraConfig(r=4, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
def attached(seed_first):
    model = LlamaForCausalLM(LlamaConfig(**shape))
    if seed_first:
        torch.manual_seed(7)
    model = get_peft_model(model, lora)
    torch.manual_seed(7)
    return model
check_seeded(attached(True), 7)
check_adapters(attached(True))
for check, model in ((lambda each: check_seeded(each, 7), attached(False)), (check_adapters, attached(True).half()),
                     (check_adapters, attached(True).requires_grad_(False))):
    try:
        check(model)
    except BadInput as error:
        print(error)
"""


def test_adapters_made_before_seeding_are_refused():
    """With peft itself, adapters made after seeding pass; those made before it, in float16 or for inference are refused."""
    python = LOADCHECK.with_name("python")
    output = subprocess.run([python, "-c", SEEDS], capture_output=True, text=True, check=True, timeout=600).stdout
    assert [line.split(":")[1].strip() for line in output.splitlines()] == ["random_state", "dtype", "requires_grad"]


def test_grpo_trains_on_rewards_of_a_file(tmp_path: Path):
    """One step: completions are generated, scored by the user's functions, and learned; the reward is in steps.jsonl."""
    folder, prompts = tmp_path / "run", ROOT / "examples" / "sums.jsonl"
    rewards = ("--method", "grpo", "--reward-functions", ROOT / "examples" / "rewards.py", "--num-generations", "2")
    more = ("--max-completion-length", "6", "--max-steps", "1", "--lora-r", "8")
    process = _start("smollm2-135m-cpu", "--data", prompts, "--run-dir", folder, *rewards, *more, "--json")
    out, err = process.communicate(timeout=1200)
    document = json.loads(out)
    figures = {finding["figure"]: finding["status"] for finding in document["findings"]}
    assert (figures["losses"], figures["rewards"], figures["base weights"]) == ("ok", "ok", "ok"), err
    (step,) = read_steps(folder / "steps.jsonl")
    assert step.reward is not None and step.reward > 0
