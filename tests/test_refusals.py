"""What the pinned unsloth and vLLM refuse whatever the memory, predicted in the engine's own words."""

import dataclasses
import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from loadcheck import cli
from loadcheck.predict import card_from_table
from loadcheck.predict.fit import GOALS, Goal
from loadcheck.predict.ladder import Ladder
from loadcheck.specs.hf_config import config_from_hf
from loadcheck.specs.model import load_models
from loadcheck.specs.profile import load_profile, with_flags
from loadcheck.specs.shape import ModelConfig
from loadcheck.stacks.unsloth_vllm.refusals import RULES, VOLTA_PREFIX, head_sizes
from loadcheck.units import GIB
from tests.cases import case_of, fit, predict
from tests.cases import search as search_of
from tests.conftest import thinned

PROFILE = load_profile("llama31-8b-instruct-4bit")
RAM = 16 * GIB
H100, T4 = card_from_table("H100"), card_from_table("T4")
SMALL = {
    "model_type": "llama", "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
    "num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 131072,
}  # fmt: skip
QUANTIZED = {
    "quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True,
}  # fmt: skip


def _config(**changes: Any) -> ModelConfig:
    return config_from_hf({**SMALL, **changes}, "config.json")


def _engine_messages(config: ModelConfig, gpu: str = "H100", **changes: Any) -> str:
    profile = with_flags(PROFILE, changes)
    return "\n".join(each.engine_says for each in predict(config, profile, card_from_table(gpu), RAM).obstacles)


def _config_with_head_size(size: int) -> ModelConfig:
    return _config(head_dim=size, num_attention_heads=8)


@pytest.mark.parametrize("size", [32, 64, 80, 96, 112, 120, 128, 160, 192, 224, 256])
def test_a_head_size_of_flash_or_paged_attention_is_accepted(size: int):
    """From 8.0 a head size that either backend supports is accepted."""
    assert _engine_messages(_config_with_head_size(size)) == ""


@pytest.mark.parametrize("size", [16, 48, 72, 100, 104, 144, 176, 240, 288, 320, 512])
def test_a_head_size_that_no_backend_has_is_refused(size: int):
    """With a head size that neither backend supports, vLLM falls back to xFormers, which raises."""
    assert f"Head size {size} is not supported by PagedAttention" in _engine_messages(_config_with_head_size(size))


@pytest.mark.parametrize(
    ("size", "taken"), [(80, True), (112, True), (120, True), (256, True), (160, False), (224, False)]
)
def test_below_8_0_there_is_no_flash_attention(size: int, taken: bool):
    """On a T4 the sizes that only FlashAttention supports are refused, with a newer card as the remedy."""
    found = predict(_config_with_head_size(size), PROFILE, T4, RAM).obstacles
    assert (found == ()) is taken
    assert taken or "8.0 or newer" in found[0].remedy


def test_head_sizes_of_each_architecture():
    """Head sizes are checked as in the pinned sources, by architecture."""
    assert head_sizes(7.0) == head_sizes(7.5) == (32, 64, 80, 96, 112, 120, 128, 192, 256)
    assert head_sizes(8.0) == head_sizes(9.0) == (32, 64, 80, 96, 112, 120, 128, 160, 192, 224, 256)


@pytest.mark.parametrize("kind", ["llama", "mistral"])
@pytest.mark.parametrize(
    ("vocab", "taken"), [(512, True), (32_000, True), (256_768, True), (256_769, False), (262_144, False)]
)
def test_a_vocabulary_too_large_for_lora(kind: str, vocab: int, taken: bool):
    """LoRA's 256 extra rows count towards the limit; there is no lower one, whatever the message says."""
    says = _engine_messages(_config(model_type=kind, vocab_size=vocab, sliding_window=None))
    assert ("When using LoRA, vocab size must be" in says) is not taken
    assert taken or says


def test_the_vocabulary_of_qwen2_has_no_limit():
    """qwen2's lm_head takes no LoRA, so its vocabulary is not checked."""
    assert _engine_messages(_config(model_type="qwen2", vocab_size=300_000)) == ""


def test_lora_is_on_without_adapters():
    """unsloth starts vLLM with LoRA whether adapters are attached or not."""
    assert "When using LoRA" in _engine_messages(_config(vocab_size=262_144), adapters=None)


@pytest.mark.parametrize("name", ["gelu", "relu", "gelu_new", None])
def test_another_activation_function_is_refused(name: str | None):
    """vLLM's llama and qwen2 only support silu."""
    assert "Only silu is supported for now." in _engine_messages(_config(hidden_act=name))


ROPE = {
    "no type": ({"factor": 2.0}, "rope_scaling should have a 'rope_type' key"),
    "empty": ({}, "rope_scaling should have a 'rope_type' key"),
    "unknown": ({"rope_type": "ntk", "factor": 2.0}, "Unknown RoPE scaling type ntk"),
    "two": ({"rope_type": "linear", "type": "dynamic", "factor": 2.0}, "Found conflicts between"),
    "linear": ({"type": "linear"}, "KeyError: 'factor'"),
    "yarn": ({"rope_type": "yarn", "factor": 2.0}, "KeyError: 'original_max_position_embeddings'"),
    "llama3": ({"rope_type": "llama3", "factor": 8.0}, "KeyError: 'low_freq_factor'"),
}


@pytest.mark.parametrize("case", ROPE)
def test_a_rope_scaling_that_vllm_refuses(case: str):
    """A rope_scaling with a missing, unknown or duplicate type, or a missing key, is refused in vLLM's words."""
    scaling, words = ROPE[case]
    assert words in _engine_messages(_config(rope_scaling=scaling))


@pytest.mark.parametrize("kind", ["default", "linear", "dynamic", "yarn", "llama3"])
def test_a_complete_rope_scaling_is_accepted(kind: str):
    """Every modelled type with its keys is accepted, also under the old name."""
    scaling = {
        "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32768,
    }  # fmt: skip
    assert _engine_messages(_config(rope_scaling={"rope_type": kind, **scaling})) == ""
    assert _engine_messages(_config(rope_scaling={"type": kind, **scaling})) == ""


def test_a_length_beyond_yarns_is_refused():
    """vLLM derives the longest length from the original length, not from max_position_embeddings."""
    scaling = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 1024}
    assert _engine_messages(_config(rope_scaling=scaling), max_seq_length=2048) == ""
    assert "greater than the derived max_model_len" in _engine_messages(
        _config(rope_scaling=scaling), max_seq_length=4096
    )


def test_a_length_beyond_the_positions_is_reported_once():
    """A length beyond the positions is reported once, as unsloth refuses it before vLLM would."""
    says = _engine_messages(_config(max_position_embeddings=2048), max_seq_length=4096)
    assert says == "Unsloth: Fast inference does not yet work with RoPE Scaling."


def test_an_odd_linear_has_no_4_bit_form():
    """A linear with an odd number of elements has no 4-bit form, as two make a byte; in 16 bits it is accepted."""
    odd = {"hidden_size": 32 * 64, "intermediate_size": 8191, "head_dim": 64, "num_key_value_heads": 8}
    assert _engine_messages(_config(**odd, quantization_config=QUANTIZED)) == ""  # 2048 is even, so every product is
    odder = {"hidden_size": 2047, "intermediate_size": 8191, "head_dim": 64, "num_key_value_heads": 8}
    assert "not aligned with the quantized weight shape" in _engine_messages(
        _config(**odder, quantization_config=QUANTIZED)
    )
    assert _engine_messages(_config(**odder)) == ""


@pytest.mark.parametrize(
    ("quantization", "name"),
    thinned([*product(["nf4", "16bit"], sorted(model.name for model in load_models() if model.refused is None))]),
)
def test_no_known_model_is_refused(name: str, quantization: Any):
    """Each model of env/models loads on any supported card, except granite, which unsloth rejects after vLLM's start."""
    config = next(model for model in load_models() if model.name == name).config_for(quantization)
    met = {
        rule.__name__ for rule in RULES for card in (H100, T4) if rule(case_of(config, PROFILE, card, RAM)) is not None
    }
    assert met == ({"_unsloth_copy"} if config.model_type == "granite" else set())


REFUSED: dict[str, dict[str, Any]] = {
    "head": {"head_dim": 100, "hidden_size": 3200},
    "vocabulary": {"vocab_size": 262_144},
    "act": {"hidden_act": "gelu"},
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("goal", GOALS)
def test_fit_proposes_nothing_that_is_refused(case: str, goal: Goal):
    """For a refused model fit proposes nothing, and gives the reason."""
    found = fit(_config(**REFUSED[case]), PROFILE, H100, RAM, goal)
    assert found.proposals == ()
    assert found.would_fit and found.would_fit[0].startswith("no settings: ")


def test_fit_names_a_card_that_has_the_head_size():
    """Head size 160 needs FlashAttention: nothing fits a T4, and a newer card is named."""
    found = fit(_config_with_head_size(160), PROFILE, T4, RAM)
    assert found.proposals == ()
    assert any("H100" in way for way in found.would_fit)


def test_the_ladder_is_not_used_for_a_refusal():
    """The ladder changes no setting if memory is not the problem."""
    search = search_of(_config(vocab_size=262_144), T4, RAM, PROFILE)
    assert list(Ladder(search, PROFILE).climb()) == []


@pytest.mark.parametrize(("capability", "warned"), [(7.0, True), (7.2, True), (7.5, False), (8.0, False), (9.0, False)])
def test_volta_gets_a_warning(capability: float, warned: bool):
    """Prefix caching is known to abort on Volta, so a load that fits gets a warning."""
    card = dataclasses.replace(H100, compute_capability=capability)
    prediction = predict(_config(), PROFILE, card, RAM)
    assert prediction.fits
    assert (VOLTA_PREFIX in prediction.warnings) is warned


@pytest.mark.parametrize("changes", REFUSED.values(), ids=REFUSED)
def test_predict_exits_1_with_the_engines_words(
    changes: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """predict exits 1 with the engine's words, as for every other obstacle."""
    file = tmp_path / "model.json"
    file.write_text(json.dumps({**SMALL, **changes}))
    assert cli.run(["predict", "--gpu", "H100", "--model", str(file)]) == 1
    out = capsys.readouterr().out
    assert "NO " in out and "the engine would say: " in out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "peak_device_gib is ± 25%: the resident set of the whole process"),
        (["--model", "llama-3.2-1b-instruct"], "peak_device_gib is not predicted: without vLLM there is no budget"),
    ],
)
def test_a_load_without_vllm_states_its_peaks_band(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]):
    """A load without vLLM states the band of its peak, or why it has none, in plain lines."""
    assert cli.run(["predict", "--profile", "smollm2-135m-cpu", *flags]) == 0
    out = capsys.readouterr().out
    assert message in out
    assert "\N{MIDDLE DOT}" not in out


def test_the_list_gives_the_weights_of_both_loads(capsys: pytest.CaptureFixture[str]):
    """The list gives the weights as a load measures them on the CPU, and as vLLM prints them on a GPU."""
    assert cli.run(["list", "models", "--json"]) == 0
    listed = {each["name"]: each for each in json.loads(capsys.readouterr().out)["models"]}
    smollm2 = listed["smollm2-135m-instruct"]
    assert (smollm2["weights_4bit_gib"], smollm2["weights_4bit_cpu_gib"]) == (0.1057, 0.1040)


def _folder(path: Path, quantized: bool, *files: str) -> str:
    path.mkdir()
    (path / "config.json").write_text(
        json.dumps({**SMALL, **({"quantization_config": QUANTIZED} if quantized else {})})
    )
    for name in files:
        (path / name).write_text("{}")
    return str(path)


@pytest.mark.parametrize(
    ("name", "quantized", "flags", "says"),
    [
        ("tiny-bnb-4bit", True, (), None),
        ("tiny", False, (), None),  # in 16 bits, as a note says
        ("tiny", True, (), "weight.absmax"),
        ("tiny-bnb-4bit", False, (), "cannot access local variable 'compute_dtype'"),
        ("tiny-bnb-4bit", False, ("--load-in-16bit",), None),
        ("tiny", True, ("--loader", "vllm"), None),
    ],
)
def test_the_name_of_a_directory_must_match_its_quantization(
    name: str,
    quantized: bool,
    flags: tuple[str, ...],
    says: str | None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    """With vLLM, unsloth goes by the end of a directory's name: where config.json disagrees, predict says what the engine would."""
    folder = _folder(tmp_path / name, quantized)
    assert cli.run(["predict", "--gpu", "H100", "--model", folder, *flags]) == (0 if says is None else 1)
    assert says is None or says in " ".join(capsys.readouterr().out.split())


def test_an_adapter_beside_the_model_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """unsloth cannot tell whether a directory with both config files is a model or an adapter."""
    folder = _folder(tmp_path / "tiny-bnb-4bit", True, "adapter_config.json")
    assert cli.run(["predict", "--gpu", "H100", "--model", folder]) == 1
    assert "Unsloth: Your repo has a LoRA adapter and a base model." in capsys.readouterr().out


def test_a_directory_that_changed_is_predicted_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """In one process, such as a notebook, a prediction says what the directory holds now: an adapter moved away or beside it, or the directory renamed."""
    folder = Path(_folder(tmp_path / "tiny-bnb-4bit", True, "adapter_config.json"))
    adapter, kept = folder / "adapter_config.json", tmp_path / "adapter_config.json"
    command = ["predict", "--gpu", "H100", "--model", str(folder)]
    assert cli.run(command) == 1
    adapter.rename(kept)
    assert cli.run(command) == 0
    kept.rename(adapter)
    assert cli.run(command) == 1
    adapter.rename(kept)
    link = tmp_path / "model"
    command[-1] = str(link)
    link.symlink_to(folder)
    assert cli.run(command) == 0
    link.unlink()
    folder.rename(tmp_path / "tiny")
    link.symlink_to(tmp_path / "tiny")
    assert cli.run(command) == 1
    assert "its name does not end in -bnb-4bit" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("files", "says"),
    [
        (
            {"adapter_config.json": '{"base_model_name_or_path": "meta-llama/Llama-3.1-8B"}'},
            "trained on: 'meta-llama/Llama-3.1-8B'",
        ),
        ({"model-Q4_K_M.gguf": "GGUF"}, "holds a GGUF model"),
        ({}, "cannot be read"),
    ],
)
def test_a_directory_without_a_model_says_what_it_holds(
    files: dict[str, str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """A directory of adapters or of a GGUF file is bad input that names what to give instead."""
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert cli.run(["predict", "--gpu", "H100", "--model", str(tmp_path)]) == 2
    assert says in capsys.readouterr().err


GPTQ, MODELOPT = '{"bits": 4, "group_size": 128}', '{"quantization": {"quant_algo": %s, "kv_cache_quant_algo": "FP8"}}'
OTHER_FORMS = (
    ({"model-Q4_K_M.gguf": "GGUF"}, "holds a GGUF model, which this stack does not load"),
    (
        {"model.safetensors": "", "quantize_config.json": GPTQ},
        "quantize_config.json: quantization 'gptq' is not modelled",
    ),
    ({"quantize_config.json": '{"quant_method": "awq"}'}, "quantization 'awq' is not modelled"),
    ({"quant_config.json": '{"zero_point": true, "w_bit": 4}'}, "quantization 'awq' is not modelled"),
    ({"model.safetensors": "", "hf_quant_config.json": MODELOPT % '"FP8"'}, "quantization 'FP8' is not modelled"),
)


@pytest.mark.parametrize(("files", "says"), thinned(OTHER_FORMS))
@pytest.mark.parametrize(
    "command",
    [
        ("predict", "--gpu", "H100"),
        ("fit", "--gpu", "H100"),
        ("doctor", "--weights", "local"),
        ("load", "llama31-8b-instruct-4bit", "--weights", "local"),
    ],
    ids=lambda command: command[0],
)
def test_weights_of_another_form_beside_config_json_are_refused_by_every_command(
    command: tuple[str, ...], files: dict[str, str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """A GGUF file alone, or a quantizer's own file where config.json names no quantization, is bad input before anything is loaded."""
    folder = _folder(tmp_path / "tiny", False)
    for name, text in files.items():
        Path(folder, name).write_text(text)
    assert cli.run([*command, "--model", folder, "--load-in-16bit"]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"model.safetensors": "", "model-Q4_K_M.gguf": "GGUF"},
        {"model.safetensors": "", "hf_quant_config.json": MODELOPT % "null"},
    ],
)
def test_weights_that_config_json_describes_are_predicted(files: dict[str, str], tmp_path: Path):
    """A config.json without weights, a GGUF file beside safetensors, and a quantization of the KV cache alone."""
    folder = _folder(tmp_path / "tiny", False)
    for name, text in files.items():
        Path(folder, name).write_text(text)
    assert cli.run(["predict", "--gpu", "H100", "--model", folder, "--load-in-16bit"]) == 0


def test_a_side_file_of_the_quantization_in_config_json_is_not_read(tmp_path: Path):
    """What config.json names counts, as for vLLM."""
    folder = _folder(tmp_path / "tiny-bnb-4bit", True, "quantize_config.json")
    assert cli.run(["predict", "--gpu", "H100", "--model", folder]) == 0


@pytest.mark.parametrize(
    "name",
    ["x/Llama-3.1-8B-Instruct-GGUF", "x/Llama-3.1-8B-Instruct-AWQ-INT4", "x/Llama-3.1-8B-Instruct-FP8", "a_gptq_4bit"],
)
def test_a_name_of_another_form_is_not_taken_for_a_misspelt_one(name: str, capsys: pytest.CaptureFixture[str]):
    """A repository that is named for another quantization or format is told so, and no other model is suggested."""
    assert cli.run(["predict", "--gpu", "H100", "--model", name]) == 2
    message = capsys.readouterr().err
    assert "by its name, which is not modelled" in message and "did you mean" not in message


def test_the_known_name_of_another_owner_gets_a_note(capsys: pytest.CaptureFixture[str]):
    """A repository of an unknown owner is predicted as the known model that it is named for, and a note says so."""
    for owner, noted in (("someone", True), ("unsloth", False), ("meta-llama", False)):
        assert cli.run(["predict", "--gpu", "H100", "--model", f"{owner}/llama-3.1-8b-instruct"]) == 0
        assert ("nobody compared the two" in " ".join(capsys.readouterr().out.split())) is noted
