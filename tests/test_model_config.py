"""A config.json gives a shape, or one line per problem."""

import codecs
import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from loadcheck import cli
from loadcheck.errors import BadInput
from loadcheck.specs.files import MAX_FILE_BYTES, changed
from loadcheck.specs.hf_config import config_from_hf
from loadcheck.specs.profile import load_profile
from tests.conftest import thinned

COMPLETE: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 128256, "max_position_embeddings": 131072, "hidden_act": "silu",
    "tie_word_embeddings": False, "attention_bias": False, "bias": False, "qkv_bias": False, "mlp_bias": False,
    "sliding_window": None, "use_sliding_window": False,
    "rope_scaling": {
        "rope_type": "llama3", "type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "quantization_config": {
        "quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True,
        "llm_int8_skip_modules": None,
    },
}  # fmt: skip
KEYS = [
    *((key,) for key in COMPLETE),
    *((key, inner) for key in ("rope_scaling", "quantization_config") for inner in COMPLETE[key]),
]
WRONG_VALUES: list[Any] = [
    "x", "", "1", "\ud800", "a\nb", "y" * 9999, 5, -1, 0, 10**30, -(10**30), 2**63, 1.5, 4096.0, 1e308, float("nan"),
    float("inf"), -float("inf"), True, False, [], [1], ["x"], [None], {}, {"a": 1}, {"factor": {}}, None,
]  # fmt: skip


def _with_value(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    if len(path) == 1:
        return {**COMPLETE, path[0]: value}
    return {**COMPLETE, path[0]: {**COMPLETE[path[0]], path[1]: value}}


@pytest.mark.parametrize(("path", "kind"), thinned([*product(KEYS, ("llama", "mistral", "qwen2"))]))
def test_a_wrong_value_gives_a_shape_or_one_line(path: tuple[str, ...], kind: str):
    """A wrong value of any key gives short lines that name the key, and no other exception."""
    for value in WRONG_VALUES:
        try:
            hf = _with_value(path, value)
            config_from_hf(hf if path == ("model_type",) else {**hf, "model_type": kind}, "f")
        except BadInput as error:
            for problem in error.problems:
                line = str(problem)
                assert path[0] in line or (path[0] == "num_attention_heads" and "hidden_size" in line), (value, line)
                assert len(line) < 250 and line.isprintable(), (value, line)


WRONG: dict[str, tuple[Any, ...]] = {
    "hidden_size": ("4096", -1, 0, 10**9, float("nan"), 4096.5, True, [4096], {}),
    "num_attention_heads": ("32", -1, 0, 32.0, True, []),
    "num_key_value_heads": ("8", -1, 0, 8.5, False),
    "head_dim": ("128", -1, 0, True, float("inf")),
    "vocab_size": ("x", None, -5, 0, 1e9),
    "max_position_embeddings": ("x", 0, float("inf")),
    "tie_word_embeddings": ("false", 0, []),
    "attention_bias": ("false", 1),
    "mlp_bias": ("x", {}),
    "hidden_act": (5, [], True),
    "sliding_window": ("x", -1, True),
    "rope_scaling": ("x", 5, True, [], [{}]),
    "rope_scaling.factor": ("x", float("nan"), float("inf"), -1, 0, True, [], {}, 1e300),
    "rope_scaling.original_max_position_embeddings": ("x", 0, -1, 1.5),
    "rope_scaling.rope_type": (5, [], {}, True, "longrope", "su"),
    "quantization_config": ("x", 5, True, [], [1]),
    "quantization_config.load_in_4bit": ("true", 1, False, None),
    "quantization_config.quant_method": (5, None, "gptq", []),
    "quantization_config.bnb_4bit_quant_type": ("fp4", 4, None),
    "quantization_config.llm_int8_skip_modules": (5, "lm_head", [5], {}, True),
    "quantization_config.bnb_4bit_quant_storage": ("bfloat16", "x", 5, []),
    "architectures": (
        5,
        "LlamaForCausalLM",
        [],
        [5],
        {},
        ["LlamaForSequenceClassification"],
        ["BertModel"],
        ["Qwen2ForCausalLM"],
    ),
    "model_type": (5, None, [], "gpt2", ""),
}


@pytest.mark.parametrize("key", WRONG)
def test_a_wrong_value_is_refused_by_its_key(key: str):
    """Text, another type, null, a negative number and NaN are refused."""
    for value in WRONG[key]:
        with pytest.raises(BadInput) as caught:
            config_from_hf(_with_value(tuple(key.split(".")), value), "config.json")
        named = key.removesuffix("rope_type").removesuffix("load_in_4bit")
        assert any((problem.key or "").startswith(named) for problem in caught.value.problems), value


@pytest.mark.parametrize(
    "names", [None, ["LlamaForCausalLM"], ["LLaMAForCausalLM"], ["X", "LlamaForCausalLM"], ["MistralForCausalLM"]]
)
def test_a_class_that_vllm_loads_as_a_language_model_is_accepted(names: list[str] | None):
    """One class that vLLM loads from the same source is enough, and a shortened config may have none."""
    assert config_from_hf({**COMPLETE, "architectures": names}, "config.json").model_type == "llama"


def test_every_wrong_key_is_named_at_once():
    """A missing key, a text and a nested one are reported at once."""
    hf = {**COMPLETE, "hidden_size": "x", "rope_scaling": {"rope_type": "linear", "factor": "y"}}
    del hf["vocab_size"]
    with pytest.raises(BadInput) as caught:
        config_from_hf(hf, "config.json")
    assert sorted(str(each.key) for each in caught.value.problems) == [
        "hidden_size",
        "rope_scaling.factor",
        "vocab_size",
    ]


def test_an_architecture_that_is_not_modelled_is_the_only_problem():
    """Other architectures have other keys, such as gemma3's text_config: nobody is asked to add llama's to them."""
    with pytest.raises(BadInput) as caught:
        config_from_hf({"model_type": "gemma3", "text_config": COMPLETE}, "config.json")
    assert [problem.key for problem in caught.value.problems] == ["model_type"]


def test_an_older_key_of_a_quantization_is_read():
    """vLLM also reads compression_config: the checkpoint is quantized, not in 16 bits."""
    with pytest.raises(BadInput, match="'compressed-tensors' is not modelled"):
        config_from_hf(
            {**COMPLETE, "quantization_config": None, "compression_config": {"format": "float-quantized"}},
            "config.json",
        )


def test_an_infinite_rope_scaling_names_the_factor():
    """The error names the file's key, not the one computed from it."""
    with pytest.raises(BadInput) as caught:
        config_from_hf(_with_value(("rope_scaling",), {"rope_type": "linear", "factor": 1000}), "config.json")
    assert caught.value.problems[0].key == "rope_scaling.factor"


TEXT = json.dumps(COMPLETE)
FILES: dict[str, bytes] = {
    "empty": b"", "list": b"[]", "number": b"5", "null": b"null", "text": b'"x"', "half": TEXT[:50].encode(),
    "deep": b"[" * 100_000, "deep objects": b'{"a":' * 50_000, "utf-16": TEXT.encode("utf-16"), "bom": codecs.BOM_UTF8 + TEXT.encode(),
    "latin": b'{"model_type": "\xe9"}', "zeros": bytes(100), "large number": b'{"hidden_size": ' + b"9" * 5000 + b"}",
    "large file": b" " * (MAX_FILE_BYTES + 1),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_no_config_is_one_line(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """A file that is no config: exit 2, the file's name, no traceback."""
    file = tmp_path / "model.json"
    file.write_bytes(FILES[name])
    assert cli.run(["predict", "--gpu", "H100", "--model", str(file)]) == 2
    output = capsys.readouterr().err
    assert output.startswith("Error: ") and output.count("\n") == 1 and "model.json" in output


def test_the_last_duplicate_key_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """As in upstream's json, the last duplicate key counts."""
    file = tmp_path / "model.json"
    file.write_text('{"vocab_size": "x", ' + TEXT[1:])
    assert cli.run(["predict", "--gpu", "H100", "--model", str(file)]) == 0
    capsys.readouterr()


def test_a_changed_record_is_validated():
    """A changed record is validated like one that was read: slots of rank 8 do not hold adapters of rank 32."""
    profile = load_profile("llama31-8b-instruct-4bit")
    with pytest.raises(BadInput, match="LoRA rank 32 is greater than max_lora_rank 8"):
        changed(profile, {"max_lora_rank": 8})
    with pytest.raises(BadInput, match="gpu_memory_utilization"):
        changed(profile, {"gpu_memory_utilization": 1.5})


PROFILE_ODD = {
    "gpu_memory_utilization": ("nan", "inf", "-inf", "0", "2", '"x"', "true", "[]", "{}", "1979-05-27"),
    "conservativeness": ("nan", "-1", "true", '"1"'),
    "max_seq_length": ("nan", "512.0", "0", "-1", "99999999999", '"512"', "true"),
    "max_lora_rank": ("7", "nan", "true", "[32]"),
    "load_in_4bit": ("1", '"true"'),
    "engine": ('"tpu"', "1"),
    "model": ('""', "5", "[]"),
    "weights": ('"x"', "1979-05-27T07:32:00Z"),
    "adapters": ('"x"', "5", "true", "[]", "[{}]", "{r = nan}", "{lora_dropout = nan}", "{target_modules = []}", '{target_modules = "q_proj"}'),
    "training": ("5", "{steps = nan}", "{learning_rate = nan}", "{steps = -1}"),
    "generation": ('{prompt = ""}', "{max_new_tokens = 0}", "{expect = 5}"),
}  # fmt: skip


@pytest.mark.parametrize("key", PROFILE_ODD)
def test_a_wrong_value_in_a_profile_is_one_line(key: str, tmp_path: Path):
    """NaN, infinity, another type or a date in a profile is BadInput that names the key."""
    base = {
        "description": '"d"', "engine": '"gpu"', "model": '"phi-4"', "weights": '"synthetic"', "max_seq_length": "512",
        "load_in_4bit": "true", "fast_inference": "true", "max_lora_rank": "32", "gpu_memory_utilization": "0.6",
    }  # fmt: skip
    file = tmp_path / "mine.toml"
    for value in PROFILE_ODD[key]:
        file.write_text("".join(f"{name} = {text}\n" for name, text in {**base, key: value}.items()))
        with pytest.raises(BadInput) as caught:
            load_profile(str(file))
        assert any(key in str(problem) for problem in caught.value.problems), value
