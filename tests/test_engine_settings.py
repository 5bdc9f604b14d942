"""Settings that unsloth passes to its engine: an 8-bit KV cache, and prefix caching."""

from pathlib import Path
from typing import Any

import pytest

from loadcheck.checking import gather
from loadcheck.predict import Case, Prediction, card_from_table
from loadcheck.specs.files import changed
from loadcheck.specs.model import resolve_model
from loadcheck.specs.profile import load_profile, with_flags
from loadcheck.stacks import predict
from loadcheck.stacks.unsloth_vllm.activation import forward_peak
from loadcheck.stacks.unsloth_vllm.engine import load_arguments
from loadcheck.stacks.unsloth_vllm.plan import kv_estimate_needed, num_sequences
from loadcheck.stacks.unsloth_vllm.refusals import head_sizes, refusals
from loadcheck.units import GIB
from loadcheck.verdict import judge
from tests.sample_logs import printed_load

PROFILE = load_profile("llama31-8b-instruct-4bit")


def _case(gpu: str = "H200", of_model: dict[str, Any] | None = None, **settings: Any) -> Case:
    profile = with_flags(PROFILE, settings)
    config = changed(resolve_model("llama-3.1-8b-instruct", True)[1], of_model or {})
    return Case(config=config, profile=profile, card=card_from_table(gpu), ram_available_bytes=2**34)


def _predict(**settings: Any) -> Prediction:
    return predict(_case(**settings))


def _engine_messages(case: Case) -> list[str]:
    return [each.engine_says for each in refusals(case)]


def test_an_8_bit_cache_has_twice_the_blocks():
    """Half the bytes per block in the card's and the host's memory; weights and budget do not change."""
    usual, halved = _predict().figures, _predict(float8_kv_cache=True, conservativeness=400 / 420).figures
    assert usual.max_num_seqs is not None and halved.max_num_seqs is not None
    assert usual.num_cpu_blocks is not None and halved.num_cpu_blocks == 2 * usual.num_cpu_blocks
    assert (halved.weights_bytes, halved.budget_bytes) == (usual.weights_bytes, usual.budget_bytes)
    assert usual.num_gpu_blocks is not None and halved.num_gpu_blocks == pytest.approx(
        2 * usual.num_gpu_blocks, rel=0.005
    )


@pytest.mark.parametrize(
    ("estimate_gib", "share", "sequences"),
    [(2, 1.0, 134), (45, 1.0, 237), (100, 1.0, 420), (100, 0.4, 168), (3, 0.1, 16)],
)
def test_an_8_bit_cache_allows_more_sequences(estimate_gib: float, share: float, sequences: int):
    """The number of sequences grows by 5 %, rounded down before conservativeness scales it (unsloth_zoo/vllm_utils.py:908, 928)."""
    assert num_sequences(estimate_gib, share, float8=True) == sequences


def test_an_8_bit_cache_is_estimated_at_1_25_bytes():
    """unsloth's own estimate of the tokens that fit takes 1.25 bytes per number (vllm_utils.py:773-775)."""
    case = _case(float8_kv_cache=True)
    assert kv_estimate_needed(case.config, 512) == -(-768 * 1024 * 2 * 32 * 1.25 // 0.95)


def test_an_old_card_has_no_8_bit_cache():
    """An old card refuses an 8-bit cache in unsloth's own words; a newer one accepts it."""
    assert _engine_messages(_case("T4", float8_kv_cache=True)) == [
        "Unsloth: Your GPU is too old for float8 KV cache! Set it to False."
    ]
    assert _engine_messages(_case(float8_kv_cache=True)) == []


def test_an_8_bit_cache_uses_xformers():
    """An 8-bit cache uses xformers, which supports fewer head sizes than FlashAttention and copies the kernel's result."""
    assert 224 in head_sizes(9.0) and 224 not in head_sizes(9.0, float8=True)
    odd = {"head_dim": 224, "hidden_size": 224 * 32}
    assert _engine_messages(_case(of_model=odd)) == []
    assert (
        "Head size 224 is not supported by PagedAttention"
        in _engine_messages(_case(of_model=odd, float8_kv_cache=True))[0]
    )
    wide = {"intermediate_size": 64, "quantization": "16bit"}  # so that attention is the widest moment of a layer
    usual, halved = (forward_peak(_case(of_model=wide, float8_kv_cache=on).config, 4096, 9.0) for on in (False, True))
    assert (usual.name, halved.name) == ("forward: o_proj", "forward: attention")


def test_without_prefix_caching_a_windowed_model_loads():
    """Without prefix caching a model with a sliding window loads: vLLM refuses only the two together, and unsloth passes the setting on."""
    window = {"sliding_window": True}
    assert "Prefix caching is not supported with sliding window" in _engine_messages(_case(of_model=window))[0]
    assert _engine_messages(_case(of_model=window, prefix_caching="off")) == []


@pytest.mark.parametrize(
    ("settings", "passed"),
    [
        ({}, {}),
        ({"float8_kv_cache": True}, {"float8_kv_cache": True}),
        ({"prefix_caching": "off"}, {"enable_prefix_caching": False}),
        ({"prefix_caching": "on"}, {"enable_prefix_caching": True}),
        ({"float8_kv_cache": True, "prefix_caching": "off", "fast_inference": False}, {}),
    ],
)
def test_only_requested_settings_are_passed(settings: dict[str, Any], passed: dict[str, Any]):
    """Only requested settings are passed to from_pretrained, as keyword arguments, and none to transformers."""
    found = load_arguments(with_flags(PROFILE, settings), Path("x"))
    assert {key: value for key, value in found.items() if key in ("float8_kv_cache", "enable_prefix_caching")} == passed


def _log(tmp_path: Path, **settings: Any) -> Path:
    card = card_from_table("H100")
    text = printed_load(card, 28 * GIB, settings)
    assert text is not None
    path = tmp_path / "load.log"
    path.write_text(text.replace("GPU: H100.", "GPU: NVIDIA H100 80GB HBM3."), encoding="utf-8")
    return path


def test_a_log_with_an_8_bit_cache_is_judged_as_such(tmp_path: Path):
    """A log with an 8-bit cache has half the block size and 5 % more sequences; it fails a profile without that setting."""
    path = _log(tmp_path, float8_kv_cache=True, max_seq_length=2048)
    evidence = gather(path)
    assert evidence.profile is None and evidence.predicted is not None
    failed = {finding.figure for finding in judge(evidence).failures()}
    assert failed == set()
    named = gather(path, "llama31-8b-instruct-4bit", overrides={"max_seq_length": 2048})
    assert "kv_cache_dtype" in {finding.figure for finding in judge(named).failures()}
    asked = gather(path, "llama31-8b-instruct-4bit", overrides={"max_seq_length": 2048, "float8_kv_cache": True})
    assert not judge(asked).failures()


def test_a_log_without_prefix_caching_needs_a_profile_without_it(tmp_path: Path):
    """A log without prefix caching passes only for a profile that asks for it."""
    path = _log(tmp_path, prefix_caching="off", max_seq_length=1024)
    asked = gather(path, "llama31-8b-instruct-4bit", overrides={"max_seq_length": 1024, "prefix_caching": "off"})
    assert not judge(asked).failures()
    other = gather(path, "llama31-8b-instruct-4bit", overrides={"max_seq_length": 1024})
    assert {finding.figure for finding in judge(other).failures()} == {"enable_prefix_caching"}
