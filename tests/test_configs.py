"""Configs of other tools: which keys map to which flags, which are reported as ignored, and which are refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from loadcheck.cli.app import run as loadcheck
from loadcheck.configs import read_config
from loadcheck.errors import BadInput
from loadcheck.specs.profile import LINEAR_MODULES

ALL = ",".join(LINEAR_MODULES)
UNSLOTH = """
model: unsloth/Llama-3.2-1B-Instruct
data: {dataset: someone/chats, format_type: auto}
training:
  training_type: lora
  max_seq_length: 4096
  load_in_4bit: true
  num_epochs: 2
  learning_rate: 1e-4
  batch_size: 2
  gradient_accumulation_steps: 4
  warmup_steps: 5
  max_steps: 0
  save_steps: 0
  random_seed: 3407
  packing: false
  gradient_checkpointing: "unsloth"
lora:
  lora_r: 16
  lora_alpha: 32
  lora_dropout: 0.0
  target_modules: "q_proj,v_proj"
"""
AXOLOTL = """
base_model: meta-llama/Llama-3.2-1B-Instruct
load_in_8bit: false
load_in_4bit: true
adapter: qlora
datasets:
  - path: rows.jsonl
    type: chat_template
sequence_len: 2048
sample_packing: false
lora_r: 8
lora_alpha: 16
lora_target_modules:
lora_target_linear: true
micro_batch_size: 2
gradient_accumulation_steps: 2
num_epochs: 3
optimizer: paged_adamw_8bit
lr_scheduler: cosine
learning_rate: 0.0002
gradient_checkpointing: true
wandb_project:
flash_attention: true
"""
LLAMA_FACTORY = """
model_name_or_path: meta-llama/Llama-3.2-1B-Instruct
quantization_bit: 4
stage: sft
do_train: true
finetuning_type: lora
lora_rank: 16
lora_target: all
dataset: identity
template: llama3
cutoff_len: 1024
per_device_train_batch_size: 1
gradient_accumulation_steps: 8
learning_rate: 1.0e-4
num_train_epochs: 3.0
warmup_ratio: 0.1
"""
TRL = """
model_name_or_path: Qwen/Qwen2.5-0.5B-Instruct
dataset_name: someone/chats
use_peft: true
load_in_4bit: true
lora_target_modules: [q_proj, v_proj]
per_device_train_batch_size: 4
gradient_checkpointing: true
max_steps: -1
num_generations: 4
max_completion_length: 128
use_vllm: true
report_to: none
"""
COMMON = {"method": "sft", "load_in_4bit": True, "fast_inference": False}


def _read(folder: Path, text: str) -> Any:
    path = folder / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return read_config(path)


@pytest.mark.parametrize(
    ("text", "kind", "settings"),
    [
        (UNSLOTH, "unsloth", {
            **COMMON, "model": "unsloth/Llama-3.2-1B-Instruct", "max_seq_length": 4096, "num_train_epochs": 2.0, "learning_rate": 1e-4,
            "per_device_train_batch_size": 2, "gradient_accumulation_steps": 4, "warmup_steps": 5, "seed": 3407,
            "use_gradient_checkpointing": "unsloth", "lora_r": 16, "lora_alpha": 32, "lora_dropout": 0.0, "target_modules": "q_proj,v_proj",
            "max_lora_rank": 16, "packing": False,
        }),
        (AXOLOTL, "axolotl", {
            **COMMON, "model": "meta-llama/Llama-3.2-1B-Instruct", "max_seq_length": 2048, "num_train_epochs": 3.0, "learning_rate": 2e-4,
            "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "use_gradient_checkpointing": "true", "lora_r": 8,
            "lora_alpha": 16, "lora_dropout": 0.0, "target_modules": ALL, "optim": "paged_adamw_8bit", "lr_scheduler_type": "cosine",
            "max_lora_rank": 8, "packing": False,
        }),
        (LLAMA_FACTORY, "LLaMA-Factory", {
            **COMMON, "model": "meta-llama/Llama-3.2-1B-Instruct", "max_seq_length": 1024, "num_train_epochs": 3.0, "learning_rate": 1e-4,
            "per_device_train_batch_size": 1, "gradient_accumulation_steps": 8, "use_gradient_checkpointing": "true", "lora_r": 16,
            "lora_alpha": 32, "lora_dropout": 0.0, "target_modules": ALL, "optim": "adamw_torch", "warmup_ratio": 0.1, "max_lora_rank": 16,
        }),
        (TRL, "TRL", {
            **COMMON, "model": "Qwen/Qwen2.5-0.5B-Instruct", "method": "grpo", "fast_inference": True, "max_seq_length": 1024,
            "num_train_epochs": 3.0, "learning_rate": 2e-5, "per_device_train_batch_size": 4, "use_gradient_checkpointing": "true",
            "lora_r": 16, "lora_alpha": 32, "lora_dropout": 0.05, "target_modules": "q_proj,v_proj", "optim": "adamw_torch",
            "num_generations": 4, "max_completion_length": 128, "max_lora_rank": 16,
        }),
    ],
    ids=["unsloth", "axolotl", "LLaMA-Factory", "TRL"],
)  # fmt: skip
def test_each_kind_maps_to_our_flags(text: str, kind: str, settings: dict[str, Any], tmp_path: Path):
    """Each kind of config maps to our flags; keys that it omits get its own tool's defaults."""
    config = _read(tmp_path, text)
    assert (config.kind, config.settings) == (kind, settings)


@pytest.mark.parametrize(
    ("text", "ignored"),
    [
        (UNSLOTH, ["data.dataset: 'someone/chats'", "data.format_type: 'auto'"]),
        (
            AXOLOTL,
            [
                "datasets: [{'path': 'rows.jsonl', 'type': 'chat_template'}], which is not a file here",
                "flash_attention: True",
            ],
        ),
        (LLAMA_FACTORY, ["do_train: True", "dataset: 'identity'", "template: 'llama3'"]),
        (TRL, ["dataset_name: 'someone/chats', which is not a file here", "report_to: 'none'"]),
    ],
    ids=["unsloth", "axolotl", "LLaMA-Factory", "TRL"],
)
def test_ignored_keys_are_named(text: str, ignored: list[str], tmp_path: Path):
    """Each ignored key is named, except for keys without effect."""
    assert _read(tmp_path, text).ignored == ignored


def test_a_data_file_is_found_relative_to_the_config(tmp_path: Path):
    """A data file is found relative to the config's folder."""
    (tmp_path / "rows.jsonl").write_text("{}")
    assert _read(tmp_path, AXOLOTL).settings["data"] == tmp_path / "rows.jsonl"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (AXOLOTL.replace("adapter: qlora", ""), "adapter: is missing, which is a different training than the one predicted here; set it to lora or qlora"),
        (AXOLOTL.replace("load_in_8bit: false", "load_in_8bit: true"), "load_in_8bit: is True"),
        (AXOLOTL + "rl: dpo\n", "rl: is 'dpo'"),
        (AXOLOTL + "deepspeed: zero3.json\n", "deepspeed: is 'zero3.json'"),
        (UNSLOTH.replace("training_type: lora", "training_type: full"), "training.training_type: is 'full'"),
        (LLAMA_FACTORY.replace("stage: sft", "stage: dpo"), "stage: is 'dpo', which is a different training"),
        (LLAMA_FACTORY.replace("quantization_bit: 4", "quantization_bit: 8"), "quantization_bit: must be 4, or left out (got 8)"),
        (LLAMA_FACTORY + "quantization_method: hqq\n", "quantization_method: is 'hqq'"),
        (LLAMA_FACTORY + "quantization_type: fp4\n", "quantization_type: is 'fp4'"),
        (LLAMA_FACTORY + "double_quantization: false\n", "double_quantization: is False"),
        (LLAMA_FACTORY + "use_badam: true\n", "use_badam: is True"),
        (TRL + "bnb_4bit_quant_type: fp4\n", "bnb_4bit_quant_type: is 'fp4'"),
        (TRL.replace("use_peft: true", ""), "use_peft: is missing"),
        (TRL + "lora_r: many\n", "lora_r: must be a whole number"),
        (TRL + "lora_alpha: 1.5\n", "lora_alpha: must be a whole number"),
        (TRL + "learning_rate: fast\n", "learning_rate: must be a number"),
        (TRL.replace("use_vllm: true", "use_vllm: maybe"), "use_vllm: must be true or false"),
        (TRL.replace("gradient_checkpointing: true", "gradient_checkpointing: 3"), "must be true, false or unsloth"),
        (TRL.replace("[q_proj, v_proj]", "[1, 2]"), "lora_target_modules: must be a string"),
    ],
)  # fmt: skip
def test_unsupported_training_is_refused(text: str, message: str, tmp_path: Path):
    """Full fine-tuning, 8 bits, other losses, several cards and invalid values are refused, with file and key."""
    with pytest.raises(BadInput) as error:
        _read(tmp_path, text)
    assert any(message in str(problem) and str(problem).startswith(str(tmp_path)) for problem in error.value.problems)


PACKING = {
    "unsloth": (UNSLOTH.replace("packing: false", "packing: true"), "today's unsloth separates the examples"),
    "axolotl": (
        AXOLOTL.replace("sample_packing: false", "sample_packing: true").replace("flash_attention: true", "pad_to_sequence_len: true"),
        "axolotl packs whole rows",
    ),
    "LLaMA-Factory": (LLAMA_FACTORY + "packing: true\nneat_packing: false\n", "pads them to cutoff_len + 1"),
    "TRL": (TRL.replace("num_generations: 4", "packing: true") + "packing_strategy: wrapped\n", "trl learns every token"),
}  # fmt: skip


@pytest.mark.parametrize("kind", PACKING)
def test_packing_is_taken_with_a_note_on_differences(kind: str, tmp_path: Path):
    """Packing is taken, with a note on how the tool's own differs; keys that match our way of packing are not reported."""
    text, differs = PACKING[kind]
    config = _read(tmp_path, text)
    assert (config.settings["packing"], len(config.differs)) == (True, 1)
    assert differs in config.differs[0]
    assert not [each for each in config.ignored if "pack" in each or "pad_to" in each]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (PACKING["axolotl"][0] + "flash_attention: true\n", "flash_attention: is True, which separates the examples of a packed row"),
        (PACKING["axolotl"][0] + "attn_implementation: sdpa\n", "attn_implementation: is 'sdpa', which separates"),
        (LLAMA_FACTORY + "packing: true\nneat_packing: true\n", "neat_packing: is True, which separates"),
        (LLAMA_FACTORY + "neat_packing: true\n", "neat_packing: is True, which separates"),
        (TRL + "packing: true\npacking_strategy: bfd\n", "packing_strategy: is 'bfd', which separates"),
        (TRL + "packing: true\npadding_free: true\n", "padding_free: is True, which separates"),
        (TRL + "packing: maybe\n", "packing: must be true or false"),
    ],
)  # fmt: skip
def test_packing_that_keeps_examples_apart_is_refused(text: str, message: str, tmp_path: Path):
    """Packing that keeps examples apart is refused by its key, unless a flag says whether to pack."""
    with pytest.raises(BadInput) as error:
        _read(tmp_path, text)
    assert any(message in str(problem) for problem in error.value.problems)
    if "maybe" not in text:
        assert "or --no-packing" in str(error.value)
        config = read_config(tmp_path / "config.yaml", {"packing"})
        assert config.differs == [] and any(message.partition(":")[0] in each for each in config.ignored)


@pytest.mark.parametrize(
    ("value", "packs", "named"), [("true", "false", True), ("false", "true", True), ("true", "true", False)]
)
def test_padding_that_changes_rows_is_reported(value: str, packs: str, named: bool, tmp_path: Path):
    """axolotl's pad_to_sequence_len is reported only where it changes the rows."""
    text = AXOLOTL.replace("sample_packing: false", f"sample_packing: {packs}").replace(
        "flash_attention: true", f"pad_to_sequence_len: {value}"
    )
    config = _read(tmp_path, text)
    assert (f"pad_to_sequence_len: {value.capitalize()}" in config.ignored) == named
    assert ("pad_to_sequence_len" in config.used) != named


def test_all_problems_are_reported_at_once(tmp_path: Path):
    """One wrong key does not hide the next."""
    with pytest.raises(BadInput) as error:
        _read(tmp_path, TRL.replace("use_peft: true", "load_in_8bit: true") + "lora_r: many\n")
    assert len(error.value.problems) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "contains no settings"),
        ("- a\n- b\n", "contains no settings"),
        ("a: 1\n", "has no key of a config of unsloth, axolotl, LLaMA-Factory, TRL"),
        ("a: [1\n", "not valid YAML (line 2"),
        ("a: !!python/object/apply:os.system [ls]\n", "not valid YAML"),
        ("lora_r: 1\nb: {c: 1, c: 2}\nlora_r: 2\n", "config.yaml:3: lora_r: is given twice"),
        ("\n".join(["a: &a [1,1,1,1,1,1,1,1,1]", *(f"b{n}: &b{n} [*{'a' if n == 0 else f'b{n - 1}'}{', *a' * 8}]" for n in range(9))]), None),
        ("a0: &a0 [x]\n" + "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)), "expands to more than"),
        ("x" * 1_100_000, "is larger than"),
        ("lora_r: \xff", "not valid YAML"),
    ],
)  # fmt: skip
def test_an_invalid_config_is_refused(text: str, message: str | None, tmp_path: Path):
    """Other files, YAML that creates objects, duplicate keys, and short files that expand to a billion values are refused."""
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(BadInput) as error:
        read_config(path)
    assert message is None or message in str(error.value)


@pytest.mark.parametrize("value", ["1e400", ".inf", ".nan", "[]", "{}", "{a: 1}", "x", "2048.5", "[1]", "true"])
@pytest.mark.parametrize("key", ["sequence_len", "lora_r"])
def test_a_value_that_is_not_a_number_is_refused_by_its_key(key: str, value: str, tmp_path: Path):
    """Infinity, a table or a list in place of a number gives one line that names the key, and not the default."""
    path = tmp_path / "config.yaml"
    text = f"base_model: unsloth/Meta-Llama-3.1-8B-Instruct\nadapter: qlora\nmicro_batch_size: 2\n{key}: {value}\n"
    path.write_text(text + ("lora_r: 16\n" if key != "lora_r" else "sequence_len: 512\n"))
    with pytest.raises(BadInput) as caught:
        read_config(path)
    assert [problem.key for problem in caught.value.problems] == [key]


@pytest.mark.parametrize("value", ["[]", "{}", "5", "{a: b}"])
def test_an_invalid_model_name_is_refused(value: str, tmp_path: Path):
    """A value that is no name is refused, and the default model is not used instead."""
    path = tmp_path / "config.yaml"
    path.write_text(f"base_model: {value}\nadapter: qlora\nmicro_batch_size: 2\nsequence_len: 512\n")
    with pytest.raises(BadInput) as caught:
        read_config(path)
    assert [problem.key for problem in caught.value.problems] == ["base_model"]


def test_a_flag_decides_how_a_config_is_packed(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """What most axolotl configs contain is refused, with the flags that resolve it."""
    path = tmp_path / "axolotl.yml"
    path.write_text(AXOLOTL.replace("sample_packing: false", "sample_packing: true"))
    command = ["predict", "--config", str(path), "--gpu", "A100-40GB", "--json"]
    assert loadcheck(command) == 2
    capsys.readouterr()
    for flag, packing in (("--packing", True), ("--no-packing", False)):
        assert loadcheck([*command, flag]) == 0
        assert json.loads(capsys.readouterr().out)["training"]["settings"]["packing"] is packing


def test_flags_override_the_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Flags override the config; the keys used and ignored are on stderr."""
    path = tmp_path / "axolotl.yml"
    path.write_text(AXOLOTL)
    assert loadcheck(["predict", "--config", str(path), "--gpu", "A100-40GB", "--lora-r", "4", "--json"]) == 0
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert (document["training"]["settings"]["per_device_train_batch_size"], document["settings"]["adapters"]["r"]) == (
        2,
        4,
    )
    assert "is a config of axolotl; used: base_model" in err
    assert "Note: not used: " in err
    assert "this command does not use num_train_epochs" in err
