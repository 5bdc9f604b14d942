"""Figures: one frozen type for predicted, measured and expected values."""

import json

import pytest

from loadcheck.figures import Figures, Reading, figure_specs, specs_by_name
from loadcheck.logs import Attempt
from loadcheck.units import GIB, from_gib

CONTRACT = """
gpu_name gpu_total_gib compute_capability unsloth vllm torch cuda triton transformers xformers model dtype quantization
max_model_len gpu_memory_utilization_pct chunked_prefill_tokens max_num_seqs kv_estimate_gib swap_gib
weights_gib budget_gib non_torch_gib activation_peak_gib kv_cache_gib num_gpu_blocks num_cpu_blocks max_concurrency
num_cuda_graphs cuda_graph_gib weights_load_s profile_s graph_capture_s engine_init_s
patched_layers patched_qkv patched_o patched_mlp trainable_params total_params adapter_gib lora_slots_gib peak_device_gib
""".split()


def test_json_names_follow_the_contract():
    """The JSON document has exactly the names of the contract, in order."""
    assert list(Figures().to_json()) == CONTRACT


def test_an_unknown_figure_is_null():
    """An unknown figure is null in JSON and "not in log" on screen, never 0."""
    assert json.loads(json.dumps(Figures().to_json()))["kv_cache_gib"] is None
    assert figure_specs()["kv_cache_bytes"].show(None) == "not in log"


def test_memory_is_in_gib_with_the_logs_decimals():
    """Weights have four decimals, swap space none, and the profile's other figures two."""
    figures = Figures(weights_bytes=5_748_957_184, swap_bytes=2 * GIB, kv_cache_bytes=2_837_493_579)
    document = figures.to_json()
    assert (document["weights_gib"], document["swap_gib"], document["kv_cache_gib"]) == (5.3541, 2, 2.64)
    assert figures.bytes_json() == {
        "weights_bytes": 5_748_957_184,
        "swap_bytes": 2 * GIB,
        "kv_cache_bytes": 2_837_493_579,
    }


@pytest.mark.parametrize("name", ["weights_gib", "swap_gib", "kv_cache_gib"])
def test_edge_conversions_are_inverse(name: str):
    """from_edge reverses to_edge, to the printed digit."""
    spec = specs_by_name()[name]
    assert spec.to_edge(spec.from_edge(3)) == 3


def test_a_reading_agrees_with_all_values_that_print_the_same():
    """A printed "5.3541" agrees with exactly the byte counts that print so."""
    reading = Reading("weights_bytes", from_gib(5.3541), 4, 1)
    assert reading.agrees(5_748_957_184)
    assert reading.agrees(5_748_867_500)
    assert not reading.agrees(5_748_860_000)
    assert not reading.agrees(5_748_980_000)


def test_an_exact_reading_agrees_only_with_itself():
    """Counts have no tolerance."""
    assert Reading("num_gpu_blocks", 1353, None, 1).agrees(1353)
    assert not Reading("num_gpu_blocks", 1353, None, 1).agrees(1354)


def test_an_attempts_reading_is_the_most_precise():
    """5.3541 is preferred to 5.35, and of two equally precise readings the first; later lines count too; without a reading it is None."""
    coarse, fine = Reading("weights_bytes", from_gib(5.35), 2, 9), Reading("weights_bytes", from_gib(5.3541), 4, 5)
    attempt = Attempt(readings=[coarse])
    assert (attempt.reading("weights_bytes"), attempt.reading("kv_cache_bytes")) == (coarse, None)
    attempt.readings += [fine, Reading("weights_bytes", from_gib(5.3541), 4, 12)]
    assert attempt.reading("weights_bytes") is fine
