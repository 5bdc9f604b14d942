"""Dynamic quants: which layers are in 16 bits, what that changes, and for which names they are loaded."""

import json
from pathlib import Path

import pytest

from loadcheck import cli
from loadcheck.checking import gather
from loadcheck.errors import BadInput
from loadcheck.plan import make_plan
from loadcheck.predict import card_from_table
from loadcheck.specs.files import changed
from loadcheck.specs.model import resolve_model
from loadcheck.specs.profile import load_profile
from loadcheck.specs.shape import ModelConfig
from loadcheck.stacks.unsloth_vllm.activation import forward_peak
from loadcheck.stacks.unsloth_vllm.graphs import graph_nodes
from loadcheck.stacks.unsloth_vllm.machine import _other_checkpoint
from loadcheck.stacks.unsloth_vllm.names import loaded_for, resolve
from loadcheck.stacks.unsloth_vllm.quantization import is_supported, kinds_of_layers
from loadcheck.stacks.unsloth_vllm.weights import weights
from loadcheck.units import to_gib
from loadcheck.verdict import judge
from loadcheck.weights.small_files import small_files
from loadcheck.weights.synthetic import directory_name
from loadcheck.weights.synthetic_tensors import checkpoint_tensors
from tests.cases import predict

PROFILE = load_profile("llama31-8b-instruct-4bit")
QWEN_3B = "unsloth/qwen2.5-3b-instruct-unsloth-bnb-4bit"
SKIPPED = "'lm_head', 'multi_modal_projector', 'merger', 'modality_projection'"


def _config(model: str, *kept: str) -> ModelConfig:
    return changed(resolve_model(model, True)[1], {"kept_modules": kept})


@pytest.mark.parametrize(
    ("model", "kept", "printed_gib"),
    [
        ("llama-3.1-8b-instruct", ["layers.1.mlp"], 5.5976),
        ("qwen2.5-3b-instruct", ["layers.2.mlp", "layers.3.mlp", "layers.30.mlp"], 2.2160),
    ],
)
def test_weights_equal_those_in_public_logs(model: str, kept: list[str], printed_gib: float):
    """Weights equal those in public logs to the printed digit: the notebooks of 2025-03-07 and 2025-02-06, with the model's known 16-bit modules."""
    config = _config(model, *kept)
    assert round(to_gib(weights(config).num_bytes), 4) == printed_gib
    assert resolve_model(f"unsloth/{model}-unsloth-bnb-4bit", True)[1] == config


def test_a_model_with_all_modules_in_16_bits_weighs_as_unquantized():
    """A model with all modules kept in 16 bits has the same weights as one that is not quantized."""
    kept = [f"layers.{layer}" for layer in range(32)]
    config = _config("llama-3.1-8b-instruct", *kept)
    plain = changed(config, {"quantization": "16bit", "kept_modules": ()})
    assert weights(config).num_bytes == weights(plain).num_bytes
    assert graph_nodes(config, 32) == graph_nodes(plain, 32)


def test_merged_linears_are_kept_together():
    """Keeping a block keeps both of its linears; keeping a single name keeps one. `layers.1` does not match layer 11."""
    kinds = kinds_of_layers(_config("llama-3.1-8b-instruct", "layers.1", "layers.2.mlp", "layers.3.self_attn.o_proj"))
    every = {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"}
    assert kinds == {
        frozenset(every): 29,
        frozenset(): 1,
        frozenset({"qkv_proj", "o_proj"}): 1,
        frozenset(every - {"o_proj"}): 1,
    }


def test_the_widest_layer_decides_the_forward_peak():
    """One layer in 16 bits does not change the peak; only with all of them is nothing dequantized."""
    plain, one = _config("llama-3.1-8b-instruct"), _config("llama-3.1-8b-instruct", "layers.1.mlp")
    every = _config("llama-3.1-8b-instruct", *(f"layers.{layer}" for layer in range(32)))
    assert forward_peak(one, 512, 7.5).num_bytes == forward_peak(plain, 512, 7.5).num_bytes
    assert forward_peak(every, 512, 7.5).num_bytes < forward_peak(plain, 512, 7.5).num_bytes


@pytest.mark.parametrize(
    ("skipped", "supported"),
    [
        (("lm_head", "model.layers.1.mlp"), True),
        (("model.layers.1.mlp", "model.layers.1.mlp.down_proj"), True),
        (("model.layers.27.mlp.down_proj",), False),
        ((), True),
    ],
)
def test_which_kept_modules_are_supported(skipped: tuple[str, ...], supported: bool):
    """A single linear without its block is not supported (unsloth_zoo/vllm_utils.py:346-376)."""
    assert is_supported(skipped) is supported


@pytest.mark.parametrize(
    ("name", "in_4bit", "loaded"),
    [
        ("unsloth/Llama-3.2-3B-Instruct-bnb-4bit", True, "unsloth/llama-3.2-3b-instruct-unsloth-bnb-4bit"),
        ("meta-llama/Meta-Llama-3.1-8B-Instruct", True, "unsloth/meta-llama-3.1-8b-instruct-bnb-4bit"),
        ("unsloth/phi-4-unsloth-bnb-4bit", False, "unsloth/phi-4"),
        ("Qwen/Qwen2.5-3B-Instruct", False, "unsloth/Qwen2.5-3B-Instruct"),
        ("me/My-Model", True, "me/My-Model"),
    ],
)
def test_the_checkpoint_that_unsloth_loads_for_a_name(name: str, in_4bit: bool, loaded: str):
    """unsloth maps a name to a checkpoint by its own table, ignoring case."""
    assert loaded_for(name, in_4bit).lower() == loaded_for(name.upper(), in_4bit).lower() == loaded.lower()


@pytest.mark.parametrize(
    ("name", "shown", "note"),
    [
        (
            "unsloth/Llama-3.2-3B-Instruct-bnb-4bit",
            "llama-3.2-3b-instruct",
            "unsloth loads unsloth/llama-3.2-3b-instruct-unsloth-bnb-4bit",
        ),
        ("Qwen/Qwen2.5-3B-Instruct", QWEN_3B, "layers.2.mlp, layers.3.mlp, layers.30.mlp in 16 bits"),
        ("unsloth/phi-4", "phi-4", "unsloth/phi-4-bnb-4bit instead"),
        ("llama-3.2-3b-instruct", "llama-3.2-3b-instruct", ""),
    ],
)
def test_a_name_is_predicted_as_the_loaded_checkpoint(name: str, shown: str, note: str):
    """A name is predicted as the checkpoint loaded for it, with a note; a name in env/models is the plain checkpoint, as in our own loads."""
    found = resolve(changed(PROFILE, {"model": name}))
    assert found.name == shown
    assert note in "".join(found.notes) and bool(note) == bool(found.notes)


def test_predict_names_the_loaded_checkpoint(capsys: pytest.CaptureFixture[str]):
    """predict names the checkpoint that is loaded, also in the JSON document."""
    assert cli.run(["predict", "--gpu", "T4", "--model", "unsloth/Llama-3.2-3B-Instruct-bnb-4bit", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert "unsloth/llama-3.2-3b-instruct-unsloth-bnb-4bit" in document["notes"][0]


def test_a_config_without_quantization_is_loaded_in_16_bits(tmp_path: Path):
    """Under vLLM load_in_4bit quantizes nothing, and predict says so."""
    data = {"model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
            "vocab_size": 512, "max_position_embeddings": 4096}  # fmt: skip
    path = tmp_path / "config.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    found = resolve(changed(PROFILE, {"model": str(path)}))
    assert found.config.quantization == "16bit" and "16 bits, whatever load_in_4bit says" in found.notes[0]
    assert resolve(changed(PROFILE, {"model": str(path), "load_in_4bit": False})).notes == ()


def test_a_config_that_keeps_a_part_of_a_merged_linear_is_refused(tmp_path: Path):
    """vLLM merges gate and up, so a config that keeps only one of them is refused."""
    data = {"model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
            "vocab_size": 512, "max_position_embeddings": 4096,
            "quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4",
                                    "bnb_4bit_use_double_quant": True, "llm_int8_skip_modules": ["model.layers.1.mlp.gate_proj"]},
            }  # fmt: skip
    path = tmp_path / "config.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(BadInput, match=r"'layers\.1\.mlp\.gate_proj' is not a module that vLLM can keep in 16 bits"):
        resolve_model(str(path), True)


def _log(tmp_path: Path, t4_log: Path, skipped: str = f"{SKIPPED}, 'model.layers.1.mlp'") -> Path:
    """The reference log as a dynamic quant would print it, with the figures that follow from its weights."""
    config = _config("llama-3.1-8b-instruct", "layers.1.mlp")
    figures = predict(config, PROFILE, card_from_table("T4"), 12 * 1024**3).figures
    assert figures.num_gpu_blocks is not None and figures.kv_cache_bytes is not None
    changes = {
        SKIPPED: skipped,
        "unsloth/meta-llama-3.1-8b-instruct-bnb-4bit": "unsloth/meta-llama-3.1-8b-instruct-unsloth-bnb-4bit",
        "5.3541 GB": "5.5976 GB",
        "model weights take 5.35GiB": "model weights take 5.60GiB",
        "KV Cache is 2.32GiB": f"KV Cache is {to_gib(figures.kv_cache_bytes):.2f}GiB",
    }
    text = t4_log.read_text(encoding="utf-8")
    for old, new in changes.items():
        text = text.replace(old, new)
    path = tmp_path / "dynamic.log"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_log_is_predicted_by_its_printed_modules(tmp_path: Path, t4_log: Path):
    """Weights are predicted from the printed list of modules; one more module changes the prediction."""
    evidence = gather(_log(tmp_path, t4_log))
    assert evidence.config is not None and evidence.config.kept_modules == ("layers.1.mlp",)
    found = {each.figure: each.status.value for each in judge(evidence).findings if each.check.value == "model"}
    assert found["weights_gib"] == found["activation_peak_gib"] == "ok"
    other = judge(gather(_log(tmp_path, t4_log, f"{SKIPPED}, 'model.layers.1.mlp', 'model.layers.2.mlp'")))
    assert "weights_gib" in {each.figure for each in other.failures()}


def test_golden_ranges_do_not_apply_to_a_dynamic_quant(tmp_path: Path, t4_log: Path):
    """A dynamic quant is not judged by the reference's golden ranges, which are for the plain checkpoint."""
    assert gather(_log(tmp_path, t4_log)).profile is None


def test_synthetic_weights_of_a_dynamic_quant():
    """Synthetic weights have the kept modules as 16-bit tensors, name them in the config, and end the folder's name as unsloth does."""
    config = _config("smollm2-135m-instruct", "layers.1.mlp")
    tensors = {tensor.name: tensor.dtype for tensor in checkpoint_tensors(config)}
    assert tensors["model.layers.1.mlp.down_proj.weight"] == "BF16"
    assert tensors["model.layers.1.self_attn.q_proj.weight"] == tensors["model.layers.0.mlp.down_proj.weight"] == "U8"
    skipped = small_files({}, config)["config.json"]["quantization_config"]["llm_int8_skip_modules"]
    assert skipped[-1] == "model.layers.1.mlp" and skipped[0] == "lm_head"
    assert directory_name("smollm2-135m-instruct", config) == "smollm2-135m-instruct-unsloth-bnb-4bit"


def test_a_dynamic_quant_fails_a_profile_of_the_plain_checkpoint(tmp_path: Path, t4_log: Path):
    """A dynamic quant fails a profile that asks for the plain checkpoint, by its name and by its printed modules alone."""
    path = _log(tmp_path, t4_log)
    failed = {each.figure: each.why for each in judge(gather(path, "llama31-8b-instruct-4bit")).failures()}
    assert "all of it in 4 bits" in failed["model"]
    text = path.read_text(encoding="utf-8").replace("-unsloth-bnb-4bit", "-bnb-4bit")
    path.write_text(text, encoding="utf-8")
    assert "model" in {each.figure for each in judge(gather(path, "llama31-8b-instruct-4bit")).failures()}


def test_a_dynamic_quant_of_unknown_modules_is_not_predicted(tmp_path: Path, t4_log: Path):
    """If neither the log nor env/models gives the 16-bit layers, a note says so and nothing is predicted."""
    text = _log(tmp_path, t4_log).read_text(encoding="utf-8").replace("vLLM Bitsandbytes config", "another line")
    path = tmp_path / "unknown.log"
    path.write_text(text.replace("meta-llama-3.1-8b-instruct", "qwen2.5-7b-instruct"), encoding="utf-8")
    evidence = gather(path)
    assert evidence.config is None
    assert "does not say which layers of its dynamic quant are in 16 bits" in evidence.prediction_note


@pytest.mark.parametrize(("model", "named"), [("Qwen/Qwen2.5-3B-Instruct", True), ("qwen2.5-3b-instruct", False)])
def test_doctor_warns_that_a_script_would_load_another_checkpoint(model: str, named: bool):
    """A name for which a script would load another checkpoint is a warning; a name of env/models is not."""
    plan = make_plan(changed(PROFILE, {"model": model, "weights": "synthetic"}))
    found = [each.what for each in _other_checkpoint(plan.profile)]
    assert found == ([f"for {model} unsloth itself loads {QWEN_3B}"] if named else [])
