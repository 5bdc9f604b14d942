"""The facts in env/*.toml: valid files load, and invalid ones are refused with all problems and their remedies."""

import json
from pathlib import Path
from typing import Any

import pytest

from loadcheck.errors import BadInput
from loadcheck.predict.card import card_from_table, described_card
from loadcheck.specs.expected import Expected, Range, load_expected
from loadcheck.specs.files import env_dir, load, validate
from loadcheck.specs.gpu import capability_of, find_gpu, gpu_named, known_bytes, load_gpus
from loadcheck.specs.hf_config import config_from_hf
from loadcheck.specs.model import find_model, is_dynamic, load_models, local_notes, resolve_model
from loadcheck.specs.profile import Profile, load_profile, load_profiles, profile_toml
from loadcheck.specs.versions import load_versions
from loadcheck.units import GIB, to_gib
from tests.conftest import ROOT

LLAMA = {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 131072,
}  # fmt: skip
NF4 = {
    "quant_method": "bitsandbytes",
    "load_in_4bit": True,
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_use_double_quant": True,
}


def _problems(error: pytest.ExceptionInfo[BadInput]) -> list[str]:
    return [str(problem) for problem in error.value.problems]


def test_every_shipped_file_is_valid():
    """All profiles, models, cards, pins and expected ranges load."""
    assert {profile.name for profile in load_profiles()} >= {"llama31-8b-instruct-4bit", "smollm2-135m-cpu"}
    assert len(load_models()) > 8
    assert len(load_gpus()) > 10
    assert load_versions().version("torch") == "2.5.1"
    for path in (env_dir() / "expected").glob("*.toml"):
        expected = load(Expected, path)
        assert path.stem == f"{expected.profile}@{expected.gpu}"


def test_the_pins_match_the_locks():
    """The versions that a run requires are those that the locks install."""
    for name in ("requirements", "cpu"):
        text = (ROOT / "env" / f"{name}.lock").read_text()
        for package, pin in load_versions().pins.items():
            line = next((line for line in text.splitlines() if line.startswith(f"{package.replace('_', '-')}==")), None)
            assert line is None or line.split()[0].endswith(f"=={pin.version}"), package


def test_the_locks_hold_hashes_and_no_address():
    """Each package of a lock has a hash, and no lock names an index."""
    for path in (ROOT / "env").glob("*.lock"):
        text = path.read_text()
        assert "://" not in text, path.name
        if path.name != "weights.lock":
            assert text.count("--hash=sha256:") >= text.count("=="), path.name


def test_the_reference_profile_is_the_reference():
    """The reference profile has the settings of the T4 run."""
    profile = load_profile("llama31-8b-instruct-4bit")
    assert (profile.max_seq_length, profile.max_lora_rank, profile.gpu_memory_utilization) == (512, 32, 0.6)
    assert profile.adapters is not None
    assert (profile.adapters.r, profile.adapters.lora_alpha, profile.adapters.random_state) == (32, 32, 3407)
    assert profile.adapters.use_gradient_checkpointing == "unsloth"


def test_overrides_reach_nested_keys():
    """A dotted key replaces one value of the adapters and leaves the others."""
    profile = load_profile("llama31-8b-instruct-4bit", {"adapters.r": 8, "max_seq_length": 1024})
    assert profile.adapters is not None
    assert (profile.adapters.r, profile.adapters.lora_alpha, profile.max_seq_length) == (8, 32, 1024)


def test_an_unknown_profile_is_suggested():
    """For a misspelt profile the nearest name is suggested."""
    with pytest.raises(BadInput, match=r"did you mean smollm2-135m-cpu\?"):
        load_profile("smollm2-135m-cpuu")


def test_all_problems_of_a_profile_are_reported_at_once(tmp_path: Path):
    """A misspelt key, another in a table, and a value out of range are one error, each with its key and remedy."""
    path = tmp_path / "mine.toml"
    text = (env_dir() / "profiles" / "llama31-8b-instruct-4bit.toml").read_text()
    text = (
        text.replace("max_seq_length", "max_seq_lenght").replace("= 0.6", "= 1.6").replace("lora_alpha", "lora_alhpa")
    )
    path.write_text(text)
    with pytest.raises(BadInput) as error:
        load_profile(str(path))
    output = "\n".join(_problems(error))
    assert "max_seq_lenght: unknown key; did you mean max_seq_length?" in output
    assert "adapters.lora_alhpa: unknown key; did you mean lora_alpha?" in output
    assert "gpu_memory_utilization: " in output and "1.6" in output
    assert all(str(path) in problem for problem in _problems(error))


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ({"adapters.r": 64}, "LoRA rank 64 is greater than max_lora_rank 32"),
        ({"max_lora_rank": 48}, "must be one of"),
        ({"gpu_memory_utilization": 0}, "gpu_memory_utilization"),
        ({"gpu_memory_utilization": 1.01}, "gpu_memory_utilization"),
        ({"adapters.target_modules": ["q_proj", "x_proj"]}, "x_proj"),
        ({"max_seq_length": "long"}, "max_seq_length"),
        ({"adapters.bias": "all"}, "adapters.bias"),
        ({"adapters.modules_to_save": ["lm_head"]}, "adapters.modules_to_save"),
        ({"adapters.r.x": 8}, "adapters.r.x: unknown key"),
        ({"max_seq_length.x": 8}, "max_seq_length.x: unknown key"),
    ],
)
def test_impossible_values_are_refused(override: dict[str, Any], words: str):
    """What unsloth or vLLM would refuse minutes later is refused at once, by name."""
    with pytest.raises(BadInput, match=words):
        load_profile("llama31-8b-instruct-4bit", override)


def test_invalid_toml_is_reported(tmp_path: Path):
    """A TOML error names the file and the position."""
    path = tmp_path / "broken.toml"
    path.write_text("a = = 1")
    with pytest.raises(BadInput, match="not valid TOML"):
        load(Profile, path)


def test_all_missing_keys_of_a_config_are_named():
    """All missing keys of a config are named at once."""
    with pytest.raises(BadInput) as error:
        config_from_hf({"model_type": "llama", "hidden_size": 8}, "config.json")
    output = "\n".join(_problems(error))
    for key in (
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "vocab_size",
        "max_position_embeddings",
    ):
        assert f"config.json: {key}: missing" in output


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "gemma3"}, "'gemma3' is not modelled"),
        ({"quantization_config": {"quant_method": "awq"}}, "quantization 'awq' is not modelled"),
        ({"quantization_config": NF4 | {"bnb_4bit_quant_type": "fp4"}}, "'fp4' is not modelled"),
        ({"quantization_config": NF4 | {"bnb_4bit_use_double_quant": False}}, "False is not modelled"),
        (
            {"quantization_config": NF4 | {"llm_int8_skip_modules": ["lm_head", "model.layers.1.mlp.up_proj"]}},
            "not a module that vLLM",
        ),
        ({"hidden_size": -1}, "hidden_size"),
        ({"num_hidden_layers": "many"}, "num_hidden_layers"),
        ({"num_key_value_heads": 5}, "not a multiple"),
        ({"vocab_size": 10**12}, "vocab_size"),
    ],
)
def test_configs_that_are_not_modelled_are_refused_by_name(change: dict[str, Any], words: str):
    """Another architecture, another quantization, part of a merged linear or an absurd size is refused."""
    with pytest.raises(BadInput, match=words):
        config_from_hf(LLAMA | change, "config.json")


def test_defaults_of_a_config_are_those_of_transformers():
    """By default head_dim is hidden/heads, kv heads equal the heads, embeddings are not tied, and weights are in 16 bits."""
    config = config_from_hf({key: value for key, value in LLAMA.items() if key != "num_key_value_heads"}, "config.json")
    assert (config.head_dim, config.num_key_value_heads, config.tie_word_embeddings) == (128, 32, False)
    assert config.quantization == "16bit"
    assert config_from_hf(LLAMA | {"quantization_config": NF4}, "config.json").quantization == "nf4"


@pytest.mark.parametrize(
    ("scaling", "tokens"),
    [
        (None, 131072),
        ({"rope_type": "llama3", "factor": 8.0}, 131072),
        ({"type": "linear", "factor": 2.0}, 262144),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}, 131072),
    ],
)
def test_rope_scaling_stretches_the_cache(scaling: dict[str, Any] | None, tokens: int):
    """Linear and yarn scaling give the rotary cache more rows than the config has positions."""
    assert config_from_hf(LLAMA | {"rope_scaling": scaling}, "config.json").rope_cache_tokens == tokens


@pytest.mark.parametrize(
    "name",
    ["meta-llama/meta-Llama-3.1-8B-Instruct", "unsloth/meta-llama-3.1-8b-instruct-bnb-4bit", "llama-3.1-8b-instruct",
     "/models/meta-llama-3.1-8b-instruct-bnb-4bit"],
)  # fmt: skip
def test_a_model_has_many_names(name: str):
    """A hub name in any case, a folder named like the repository, and our own name mean the same model."""
    model = find_model(name)
    assert model is not None and model.name == "llama-3.1-8b-instruct"


def test_a_dynamic_quant_is_recognized_by_its_name():
    """unsloth's dynamic quant has the model's shape, but other weights."""
    name = "unsloth/meta-llama-3.1-8b-instruct-unsloth-bnb-4bit"
    model = find_model(name)
    assert model is not None and model.name == "llama-3.1-8b-instruct"
    assert is_dynamic(name) and not is_dynamic("unsloth/meta-llama-3.1-8b-instruct-bnb-4bit")


def test_a_local_config_decides_its_own_quantization(tmp_path: Path):
    """A directory or config.json keeps its own quantization, whatever was requested."""
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    for name in (tmp_path, tmp_path / "config.json"):
        assert resolve_model(str(name), load_in_4bit=True)[1].quantization == "16bit"


@pytest.mark.parametrize(
    ("keys", "is_noted"),
    [
        ({"rope_parameters": {"rope_theta": 500_000.0, "rope_type": "default"}}, True),
        ({"rope_parameters": {"rope_theta": 500_000.0}, "rope_theta": 500_000.0}, False),
        ({"rope_parameters": {"rope_theta": 10_000, "rope_type": "default"}}, False),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 8.0}, "rope_scaling": None}, True),
        ({"rope_parameters": None}, False),
        ({}, False),
    ],
)
def test_rope_settings_that_only_transformers_5_reads_get_a_note(
    keys: dict[str, object], is_noted: bool, tmp_path: Path
):
    """A model saved by transformers 5 loads with the predicted memory, but transformers 4 ignores its rotary settings."""
    (tmp_path / "config.json").write_text(
        json.dumps({key: value for key, value in LLAMA.items() if key != "rope_theta"} | keys)
    )
    for name in (tmp_path, tmp_path / "config.json"):
        assert ("rope_parameters" in "".join(local_notes(str(name)))) == is_noted
    assert local_notes("llama-3.1-8b-instruct") == ()


@pytest.mark.parametrize(("content", "words"), [("{", "not valid JSON"), ("[]", "not a JSON object")])
def test_a_broken_config_is_named(content: str, words: str, tmp_path: Path):
    """A broken config.json is reported with its path."""
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(BadInput, match=words):
        resolve_model(str(tmp_path), load_in_4bit=True)


def test_an_unknown_model_is_suggested():
    """For a misspelt model the nearest known one is suggested."""
    with pytest.raises(BadInput, match=r"did you mean llama-3.1-8b-instruct\?"):
        resolve_model("llama-3.1-8b-instrct", load_in_4bit=True)


def test_another_number_is_no_misspelling():
    """Llama 3.4 70B is not a misspelt Llama 3.3 70B: the known models are listed, and none is suggested."""
    with pytest.raises(BadInput) as caught:
        resolve_model("Llama-3.4-70B-Instruct", load_in_4bit=True)
    assert caught.value.problems[0].remedy.startswith("known: deepseek-r1-distill-llama-8b")


def test_a_missing_key_lists_its_values(tmp_path: Path):
    """For a profile without engine and load_in_4bit the values of each are listed."""
    file = tmp_path / "mine.toml"
    file.write_text("")
    with pytest.raises(BadInput) as caught:
        load_profile(str(file))
    remedies = {problem.key: problem.remedy for problem in caught.value.problems}
    assert remedies["engine"] == "add it, one of gpu, cpu"
    assert remedies["load_in_4bit"] == "add it, one of true, false"
    assert remedies["max_seq_length"] == "add it"


@pytest.mark.parametrize(
    ("device", "key"),
    [("Tesla T4", "T4"), ("NVIDIA H100 80GB HBM3", "H100"), ("NVIDIA L40S", "L40S"), ("NVIDIA L4", "L4"),
     ("NVIDIA A100-SXM4-80GB", "A100-80GB"), ("NVIDIA A100 80GB PCIe", "A100-80GB"), ("A100-SXM4-40GB", "A100-40GB"),
     ("NVIDIA GeForce RTX 4090", "RTX4090"), ("GeForce RTX 3090", "RTX3090"), ("NVIDIA A10G", "A10G"),
     ("NVIDIA H200", "H200"), ("Tesla V100-SXM2-16GB", "V100-16GB"), ("Tesla P100-PCIE-16GB", "P100")],
)  # fmt: skip
def test_a_card_is_found_by_its_device_name(device: str, key: str):
    """A card is found by the driver's name, with or without the brand that older drivers omit."""
    assert find_gpu(device) == key


@pytest.mark.parametrize(
    "device",
    ["NVIDIA L40G", "Tesla T40", "Tesla T4G", "NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA GeForce RTX 4090 D",
     "NVIDIA GeForce RTX 3080 Ti", "NVIDIA A16", "NVIDIA H100 PCIe", "NVIDIA H100 NVL", "NVIDIA H200 NVL",
     "NVIDIA A100-SXM4-80GB MIG 3g.40gb", "Radeon", "NVIDIA", ""],
)  # fmt: skip
def test_a_partial_device_name_is_no_match(device: str):
    """Part of a device's name is no match, as those cards have other memory."""
    assert find_gpu(device) is None


@pytest.mark.parametrize(
    "name", ["rtx4090", "RTX 4090", "rtx-4090", "NVIDIA RTX 4090", "NVIDIA GeForce RTX 4090", "4090", "GeForce 4090", "4090 24GB"]
)  # fmt: skip
def test_a_cards_short_name_may_be_typed_freely(name: str):
    """Case, spaces, hyphens, the brand and "RTX" do not matter in a card's short name."""
    assert gpu_named(name)[0] == "RTX4090"


@pytest.mark.parametrize(
    ("name", "key", "gib"),
    [("A10", "A10", 22.07), ("RTX A6000", "A6000", 47.431), ("A6000 48 GB", "A6000", 47.431), ("3090 Ti", "RTX3090Ti", 23.651),
     ("2080 Ti 22GB", "RTX2080Ti", 21.76), ("2080 Ti", "RTX2080Ti", 10.76), ("4060 Ti (8GB)", "RTX4060Ti", 7.786), ("4060ti 16g", "RTX4060Ti", 15.572),
     ("4090 48GB", "RTX4090", 47.5), ("RTX 6000 Ada", "RTX6000Ada", 44.43), ("L40", "L40", 44.402), ("H800", "H800", 79.179), ("H20", "H20", 95.33),
     ("A100 80GB", "A100-80GB", 79.151), ("A100-40G", "A100-40GB", 39.557), ("H100 80GB", "H100", 79.179)],
)  # fmt: skip
def test_a_card_is_found_by_its_memory_size(name: str, key: str, gib: float):
    """A card with several memory sizes is found by the size in its name."""
    found, gpu = gpu_named(name)
    total = known_bytes(gpu.total_bytes)
    assert found == key and total is not None and to_gib(total) == pytest.approx(gib, abs=0.01)


@pytest.mark.parametrize(
    ("name", "key"),
    [("Tesla-T4", "T4"), ("nvidia-tesla-t4", "T4"), ("nvidia-l4", "L4"), ("NVIDIA-A10G", "A10G"), ("NVIDIA-GeForce-RTX-4090", "RTX4090"),
     ("NVIDIA-H100-80GB-HBM3", "H100"), ("H100-80GB-HBM3", "H100"), ("nvidia-h100-80gb", "H100"), ("NVIDIA_A100_80GB", "A100-80GB"),
     ("GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-5f1b8a3e)", "A100-40GB"), ("T4:1", "T4"), ("A100-80GB:1", "A100-80GB")],
)  # fmt: skip
def test_a_card_is_found_by_its_label(name: str, key: str):
    """Labels of Kubernetes and GKE, a line of `nvidia-smi -L` and SkyPilot's count of one name the same cards as CUDA does."""
    assert gpu_named(name)[0] == key


@pytest.mark.parametrize(
    "name",
    ["NVIDIA-GeForce-RTX-4090-Laptop-GPU", "NVIDIA-A100-SXM4-80GB-MIG-1g.10gb", "NVIDIA A10-24Q", "T4:2", "2xT4"],
)
def test_a_label_of_another_card_is_not_that_card(name: str):
    """A laptop's card, a slice, a share of a card and two cards are not the card itself."""
    with pytest.raises(BadInput):
        card_from_table(name)


@pytest.mark.parametrize(
    ("name", "capability"),
    [("NVIDIA A10-24Q", "8.6"), ("GRID T4-16Q", "7.5"), ("GRID A100D-80C", "8.0"), ("GRID V100D-32C", "7.0"), ("NVIDIA L40S-48Q", "8.9"),
     ("NVIDIA H100L-94C", "9.0"), ("GRID A100D-4-20C", "8.0")],
)  # fmt: skip
def test_a_share_of_a_card_has_its_capability(name: str, capability: str):
    """A virtual machine's share of a card (vGPU) has the card's compute capability."""
    assert capability_of(name) == capability


@pytest.mark.parametrize(
    ("name", "capability"),
    [("V100-32GB", "7.0"), ("4090 16GB", "8.9"), ("A100 64GB", "8.0"), ("GH200", "9.0"), ("A100 1g.5gb", "8.0"), ("H100 3g.40gb", "9.0"),
     ("A100-40GB MIG 3g.20gb", "8.0"), ("NVIDIA H100 PCIe", "9.0"), ("RTX 4090 D", "8.9"), ("RTX 3060", "8.6"), ("A30 1g.6gb", "8.0")],
)  # fmt: skip
def test_a_card_of_unknown_size_is_asked_for_it(name: str, capability: str):
    """For an unknown size the architecture is known, and the memory is asked for; with it the card is predicted."""
    with pytest.raises(BadInput) as caught:
        described_card(name, None, None, None)
    assert [problem.where for problem in caught.value.problems] == ["--gpu-total-bytes", "--gpu-free-bytes"]
    card = described_card(name, 16 * GIB, 15 * GIB, None)
    assert (str(card.compute_capability), card.total_bytes, card.name) == (capability, 16 * GIB, name)


@pytest.mark.parametrize(
    ("name", "words"),
    [("RTX 5060 Ti", "12.0 is above 9.0"), ("K80", "3.7 is below 7.0"), ("B200", "10.0 is above 9.0")],
)
def test_an_unsupported_card_is_not_asked_for_its_size(name: str, words: str):
    """An unsupported card is refused with the reason, and not asked for its size."""
    with pytest.raises(BadInput, match=words):
        described_card(name, None, None, None)


@pytest.mark.parametrize(
    ("name", "words"),
    [("A100", "its family there: A100-40GB, A100-80GB"), ("V100", "its family there: V100-16GB"), ("RTX4900", "did you mean RTX4090?")],
)  # fmt: skip
def test_a_family_name_lists_its_cards(name: str, words: str):
    """A family's name lists its cards, swapped characters suggest the intended card, and no other card is named."""
    with pytest.raises(BadInput) as caught:
        gpu_named(name)
    assert caught.value.problems[0].remedy == words


@pytest.mark.parametrize("name", ["RTX", "L41", "A11", "T40", "Radeon VII"])
def test_for_an_unknown_card_the_known_ones_are_listed(name: str):
    """One different character is another card: none is suggested; all are listed, with the flags that describe any other."""
    with pytest.raises(BadInput) as caught:
        gpu_named(name)
    (problem,) = caught.value.problems
    assert "did you mean" not in problem.remedy and "known: T4, P100" in problem.remedy
    assert "--gpu-total-bytes, --gpu-free-bytes, --compute-capability" in problem.remedy


def test_unsupported_cards_say_why():
    """P100, RTX 5090 and B200 are refused with their compute capability."""
    for name in ("P100", "RTX5090", "B200"):
        gpu = gpu_named(name)[1]
        assert gpu.refused is not None and gpu.compute_capability in gpu.refused


def test_unknown_facts_stay_unknown():
    """A number that was never measured is None, not 0."""
    assert known_bytes(gpu_named("B200")[1].total_bytes) is None


@pytest.mark.parametrize("data", [{"why": "x"}, {"exactly": 1, "low": 0.0, "high": 1.0, "why": "x"}, {"low": 2.0, "high": 1.0, "why": "x"}, {"low": 1.0, "why": "x"}])  # fmt: skip
def test_invalid_ranges_are_refused(data: dict[str, Any]):
    """A range is one exact value, or a low and a high in that order."""
    with pytest.raises(BadInput):
        validate(Range, data, "expected")


def test_expected_ranges_name_real_figures(tmp_path: Path):
    """A figure that no log has is an error of the file."""
    text = (
        (env_dir() / "expected" / "llama31-8b-instruct-4bit@t4.toml").read_text().replace("weights_gib", "weight_gib")
    )
    path = tmp_path / "expected.toml"
    path.write_text(text)
    with pytest.raises(BadInput, match="no such figure: weight_gib"):
        load(Expected, path)


def test_a_profile_may_have_no_expected_ranges():
    """A profile that never ran on a card has no ranges, which is no error."""
    assert load_expected("llama31-8b-instruct-4bit", "P100") is None


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"adapters": None, "enforce_eager": True},
        {
            "generation.prompt": 'a "b" \\ \n\t\x7f\x00 é \U0001f600',
            "training.steps": 3,
            "training.learning_rate": 1e-05,
        },
        {"generation.expect": None, "adapters.use_gradient_checkpointing": False},
    ],
)
def test_a_saved_profile_loads_unchanged(overrides: dict[str, Any], tmp_path: Path):
    """A saved profile loads unchanged, with or without adapters, whatever its prompt holds."""
    profile = load_profile("llama31-8b-instruct-4bit", overrides)
    (tmp_path / "kept.toml").write_text(profile_toml(profile, "a comment"))
    assert load_profile(str(tmp_path / "kept.toml")) == profile


def test_a_flag_adds_adapters_to_a_profile_without(tmp_path: Path):
    """`adapters = false` means none; --lora-r adds them again."""
    (tmp_path / "kept.toml").write_text(
        profile_toml(load_profile("llama31-8b-instruct-4bit", {"adapters": None}), "none")
    )
    found = load_profile(str(tmp_path / "kept.toml"), {"adapters.r": 8}).adapters
    assert found is not None and found.r == 8
