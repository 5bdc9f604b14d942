"""What depends on the architecture: traced bytes, a config's defaults, and what the stack cannot load."""

import csv

import pytest

from loadcheck import cli
from loadcheck.errors import BadInput
from loadcheck.predict import Case, card_from_table
from loadcheck.specs.architecture import ARCHITECTURES, family_not_loaded
from loadcheck.specs.files import changed
from loadcheck.specs.hf_config import config_from_hf
from loadcheck.specs.lora import base_params
from loadcheck.specs.model import find_model, load_models, unknown_model
from loadcheck.specs.profile import load_profile
from loadcheck.specs.shape import ModelConfig
from loadcheck.stacks.unsloth_vllm.activation import forward_peak
from loadcheck.stacks.unsloth_vllm.graphs import graph_nodes
from loadcheck.stacks.unsloth_vllm.outside_budget import engine_extras
from loadcheck.stacks.unsloth_vllm.refusals import refusals
from loadcheck.stacks.unsloth_vllm.training_memory.prediction import check_traced
from loadcheck.stacks.unsloth_vllm.weights import weights
from tests.cases import known_config, predict
from tests.conftest import ROOT

PROFILE = load_profile("llama31-8b-instruct-4bit")
TRACED = [
    *csv.DictReader((ROOT / "tests" / "traced_profile.tsv").read_text(encoding="utf-8").splitlines(), delimiter="\t")
]
TINY = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 512,
        "num_key_value_heads": 2, "max_position_embeddings": 4096}  # fmt: skip


def test_a_forward_pass_equals_a_trace_of_vllms_classes():
    """The forward pass equals a trace of vLLM's classes to the byte, with LoRA: in 4 and 16 bits, for both lengths of every model
    (scripts/trace_profile.py)."""
    rows = [row for row in TRACED if row["lora"] == "1"]
    assert {find_model(row["model"]).config["model_type"] for row in rows} >= {"granite", "gemma"}
    for row in rows:
        found = forward_peak(
            known_config(row["model"], "nf4" if row["quantization"] == "nf4" else "16bit"), int(row["tokens"]), 9.0
        ).num_bytes
        assert found == int(row["forward_bytes"]), row


def test_weights_outside_the_layers_equal_a_trace():
    """The weights outside the layers equal the trace: embedding, head, last norm, rotary cache and gemma's normalizer."""
    for row in TRACED:
        if row["lora"] == "1":
            outside = sum(term.num_bytes for term in weights(known_config(row["model"])).parts[1:])
            assert outside == int(row["outside_layers_bytes"]), row


def test_a_short_gemma_config_has_gemmas_defaults():
    """A short gemma config gets a head of 256, tied embeddings and the tanh approximation, whatever hidden_act is; a llama config gets none of these."""
    config = config_from_hf({"model_type": "gemma", "hidden_act": "gelu", "attention_bias": True, **TINY}, "x")
    assert (config.head_dim, config.tie_word_embeddings, config.hidden_act) == (256, True, "gelu_pytorch_tanh")
    assert (config.qkv_bias, config.o_bias) == (False, False)
    llama = config_from_hf({"model_type": "llama", "attention_bias": True, **TINY}, "x")
    assert (llama.head_dim, llama.tie_word_embeddings, llama.hidden_act, llama.qkv_bias) == (16, False, "silu", True)


def _engine_messages(config: ModelConfig) -> list[str]:
    case = Case(config=config, profile=PROFILE, card=card_from_table("H200"), ram_available_bytes=2**34)
    return [obstacle.engine_says for obstacle in refusals(case)]


def test_granite_fails_once_vllm_is_ready():
    """granite fails after vLLM's start with the error of unsloth's rotary embedding; the figures that vLLM prints before are predicted."""
    found = predict(known_config("granite-3.1-2b-instruct"), PROFILE, card_from_table("H200"), 2**34)
    assert not found.fits and found.figures.weights_bytes is not None
    assert _engine_messages(known_config("granite-3.1-2b-instruct")) == [
        "GraniteRotaryEmbedding.__init__() got an unexpected keyword argument 'device'"
    ]


def test_gemma_needs_gelu_and_tied_embeddings():
    """gemma without GELU or without tied embeddings is refused with vLLM's words."""
    gemma = known_config("gemma-2b-it")
    assert _engine_messages(gemma) == []
    assert _engine_messages(changed(gemma, {"hidden_act": "silu"})) == ["Activation function silu is not supported"]
    assert _engine_messages(changed(gemma, {"tie_word_embeddings": False})) == ["AssertionError"]


def test_gemmas_tables_and_granites_kernels():
    """unsloth keeps gemma's rotary tables in fp32; a granite layer launches two more products and two more sums."""
    gemma, granite = known_config("gemma-2b-it"), known_config("granite-3.1-2b-instruct")
    tables = engine_extras(gemma, 512, 16, 9.0, False).parts[-1]
    assert tables.num_bytes == 2 * 4 * 8192 * 256
    assert graph_nodes(granite, 1) - graph_nodes(changed(granite, {"model_type": "llama"}), 1) == 4 * 40


@pytest.mark.parametrize(
    ("model_type", "words"),
    [
        ("gemma2", "no adapter can be trained"),
        ("cohere", "AttributeError: 'CohereDecoderLayer' object has no attribute 'post_attention_layernorm'"),
        ("phi3", "NotImplementedError: Unsloth: … not supported yet!"),
        ("qwen3", "modelled: llama, mistral, qwen2, granite, gemma"),
    ],
)
def test_an_unmodelled_architecture_is_refused_with_the_engines_words(model_type: str, words: str):
    """An architecture that is not modelled is refused with the engine's words, at the stage where it would fail."""
    with pytest.raises(BadInput, match=model_type) as caught:
        config_from_hf({"model_type": model_type, **TINY}, "config.json")
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("model", "billions"),
    [
        ("Qwen/QwQ-32B", 32.76), ("unsloth/Qwen2.5-Coder-32B-Instruct-bnb-4bit", 32.76), ("Qwen/Qwen2.5-14B-Instruct", 14.77),
        ("unsloth/Llama-3.3-70B-Instruct-bnb-4bit", 70.55), ("deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", 1.777),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", 7.616), ("unsloth/DeepSeek-R1-Distill-Llama-8B", 8.030),
        ("mistralai/Mistral-Small-24B-Instruct-2501", 23.57), ("google/gemma-2b-it", 2.506), ("google/gemma-7b-it", 8.538),
        ("ibm-granite/granite-3.1-2b-instruct", 2.534), ("ibm-granite/granite-3.1-8b-instruct", 8.171),
    ],
)  # fmt: skip
def test_models_of_public_reports_are_known_by_name(model: str, billions: float):
    """Each model is found by any of its names, with the parameter count that its publisher states."""
    assert base_params(known_config(model)) / 1e9 == pytest.approx(billions, rel=0.0005)


def test_phi_4_mini_is_refused_with_the_reason(capsys: pytest.CaptureFixture[str]):
    """phi-4-mini is refused with the reason, and with a model that loads."""
    assert cli.run(["predict", "--gpu", "H200", "--model", "microsoft/Phi-4-mini-instruct"]) == 2
    output = capsys.readouterr().err
    assert "phi3" in output and "phi-4 is converted to llama" in output


def test_training_of_an_untraced_architecture_is_refused():
    """Training an untraced architecture is refused, as its figures would be a guess."""
    for name, architecture in ARCHITECTURES.items():
        config = config_from_hf({"model_type": name, **TINY}, name)
        if architecture.trained:
            check_traced(config)
        else:
            with pytest.raises(BadInput, match=f"the training of a {name} model is not modelled"):
                check_traced(config)


@pytest.mark.parametrize(
    ("name", "family"),
    [("google/gemma-2-9b-it", "gemma2"), ("unsloth/Qwen3-8B-unsloth-bnb-4bit", "qwen3"), ("google/gemma-3-27b-it", "gemma3"),
     ("CohereForAI/c4ai-command-r-v01", "cohere"), ("openai/gpt-oss-20b", "gpt_oss"), ("meta-llama/Llama-3.2-11B-Vision", "mllama"),
     ("deepseek-ai/DeepSeek-R1", "deepseek_v3"), ("microsoft/Phi-3.5-mini-instruct", "phi3"), ("Qwen/Qwen2.5-VL-7B-Instruct", "qwen2_vl")],
)  # fmt: skip
def test_a_family_that_is_not_loaded_is_refused_by_its_name(name: str, family: str):
    """A family that does not load is refused by its name, with what would happen and what does load, and no list of similar names."""
    problem = unknown_model(name)
    assert f"a {family} model by its name" in problem.what
    assert "modelled: llama, mistral, qwen2" in problem.remedy


@pytest.mark.parametrize("model", load_models(), ids=lambda model: model.name)
def test_no_known_model_is_refused_by_its_family(model):
    """No known model matches the pattern of a family that does not load."""
    if model.refused is None:
        assert all(family_not_loaded(name) is None for name in (model.name, *model.names))
