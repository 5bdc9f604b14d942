"""Our own golden runs on real cards: each is predicted, and judged as before."""

import json
from pathlib import Path
from typing import Any

import pytest

from loadcheck.checking import gather
from loadcheck.figures import Figures
from loadcheck.logs.event import EventT
from loadcheck.logs.events import Answered, Attached, Trained
from loadcheck.specs.expected import load_expected
from loadcheck.stacks import parse_log
from loadcheck.verdict import Check, Status, judge
from tests.conftest import RUNS

H100, H200 = RUNS / "h100", RUNS / "h200"
PASSED = {
    "h100/reference-train3", "h100/15-sequences", "h100/113-sequences", "h100/8192-tokens-rank16", "h100/utilization-0.08",
    "h100/beside-another-process", "h100/mistral-7b-2048", "h100/qwen2.5-1.5b-16bit", "h100/smollm2-train3",
    "h200/reference", "h200/reference-train3", "h200/15-sequences", "h200/qwen2.5-1.5b-16bit", "h200/smollm2-rank8",
    "h200/without-graphs", "h200/short-of-estimate-recovered", "h200/llama-3.2-3b-short-of-kv-recovered",
    "h200/recovered-peak-train3", "h200/qwen2.5-3b-dynamic", "h200/llama-3.1-8b-dynamic",
    "h200/gemma-2b", "h200/llama-3.2-1b-fp8-kv", "h200/qwq-32b", "h200/plain-qwen2.5-7b", "h200/plain-granite-3.1-2b-16bit",
    "h200/plain-llama-3.2-1b-fp8-chunked",
}  # fmt: skip
FAILED = {
    "h100/128-tokens-refused": "max_num_batched_tokens (128) must be greater than or equal to max_num_seqs (226)",
    "h100/killed": "SIGKILL",
    "h100/llama-3.2-3b-interrupted": "the user ended it",
    "h200/killed": "SIGKILL",
    "h200/short-of-estimate": "No available memory for the cache blocks",
    "h200/llama-3.2-3b-short-of-kv": "no room for the KV cache",
    "h200/length-cut": "unsloth cut max_seq_length",
}
LOADED = sorted(PASSED | {"h100/llama-3.2-3b-interrupted"})


def test_every_golden_run_has_a_test():
    """Every run in the folders has a test."""
    kept = {f"{folder.name}/{path.name}" for folder in (H100, H200) for path in folder.iterdir()}
    assert kept == PASSED | set(FAILED)


@pytest.mark.parametrize("name", sorted(PASSED))
def test_runs_that_passed_still_pass(name: str):
    """These loads pass by their predictions: other models, lengths, ranks, utilizations, a card in use, no graphs."""
    assert judge(gather(RUNS / name)).status == "pass"


@pytest.mark.parametrize("name", sorted(FAILED))
def test_runs_that_failed_still_fail(name: str):
    """A load that was refused, killed, interrupted, short of memory, cut or retried fails with the reason."""
    verdict = judge(gather(RUNS / name))
    assert verdict.status == "fail"
    assert any(FAILED[name] in finding.why for finding in verdict.failures())


EQUAL = (
    "gpu_memory_utilization_pct", "kv_estimate_gib", "max_num_seqs", "swap_gib", "weights_gib", "activation_peak_gib",
    "budget_gib", "num_cpu_blocks", "num_cuda_graphs", "trainable_params", "total_params", "adapter_gib", "lora_slots_gib",
)  # fmt: skip


OF_THE_ENGINE = (
    "gpu_memory_utilization_pct",
    "weights_gib",
    "activation_peak_gib",
    "budget_gib",
    "num_cpu_blocks",
    "num_cuda_graphs",
)
"""Runs of vLLM alone have no plan of unsloth's and no adapters."""


@pytest.mark.parametrize("name", LOADED)
def test_figures_are_predicted_to_the_printed_digit(name: str):
    """Each figure is predicted to the printed digit from the run's free memory and settings, or is within its band."""
    findings = [finding for finding in judge(gather(RUNS / name)).findings if finding.check is Check.MODEL]
    assert all(finding.status is Status.OK for finding in findings)
    compared = {finding.figure: finding for finding in findings}
    for figure in EQUAL if "plain-" not in name else OF_THE_ENGINE:
        assert compared[figure].measured == compared[figure].predicted, figure


def _numbers(figures: Figures) -> dict[str, Any]:
    return figures.to_json()


@pytest.mark.parametrize("name", LOADED)
def test_bands_are_as_narrow_as_promised(name: str):
    """KV cache within 0.02 GiB, blocks within 0.1 %, graphs within 15 % and half a printed digit, the device's peak within 3 %."""
    evidence = gather(RUNS / name)
    assert evidence.predicted is not None
    measured, predicted = _numbers(evidence.attempt.figures), _numbers(evidence.predicted)
    assert abs(measured["kv_cache_gib"] - predicted["kv_cache_gib"]) <= 0.02
    assert abs(measured["num_gpu_blocks"] / predicted["num_gpu_blocks"] - 1) <= 0.001
    graphs = measured["cuda_graph_gib"]
    assert graphs is None or abs(graphs - predicted["cuda_graph_gib"]) <= 0.15 * predicted["cuda_graph_gib"] + 0.005
    assert abs(measured["peak_device_gib"] / predicted["peak_device_gib"] - 1) <= 0.03


def _event(name: str, kind: type[EventT]) -> EventT:
    found = gather(RUNS / name).attempt.last(kind)
    assert found is not None
    return found


def test_loads_are_reproducible():
    """The same model and seed gave the same adapters and greedy tokens in every run of the day, on both cards."""
    runs = [
        "h100/reference-train3", "h100/15-sequences", "h100/113-sequences", "h100/utilization-0.08",
        "h100/beside-another-process", "h200/reference", "h200/reference-train3", "h200/15-sequences",
        "h200/short-of-estimate-recovered",
    ]  # fmt: skip
    assert len({_event(name, Attached).adapter_sha256 for name in runs}) == 1
    assert len({_event(name, Answered).token_ids_sha256 for name in runs}) == 1


def test_training_changed_the_adapters():
    """Three training steps on the card: the loss falls, the adapters change, the base weights do not."""
    for name in ("h100/reference-train3", "h100/smollm2-train3", "h200/reference-train3", "h200/recovered-peak-train3"):
        trained = _event(name, Trained)
        assert trained.base_unchanged is True and trained.adapter_changed is True
        assert trained.last_loss is not None and trained.first_loss is not None
        assert trained.last_loss < trained.first_loss


def test_the_runs_behind_a_range_are_within_it():
    """The runs that a range is based on are within it."""
    for log in (
        H100 / "reference-train3",
        H200 / "reference",
        H200 / "reference-train3",
        RUNS / "h100_llama31-8b_synthetic.txt",
        RUNS / "t4_llama31-8b_reference.txt",
    ):
        evidence = gather(Path(log))
        assert evidence.expected is not None
        golden = [finding for finding in judge(evidence).findings if finding.check is Check.GOLDEN]
        assert len(golden) == len(evidence.expected.figures)
        assert all(finding.status is Status.OK for finding in golden)


def test_ranges_apply_to_their_settings_only():
    """A run with other settings on the same card is not judged by the reference's ranges."""
    assert gather(H100 / "15-sequences").expected is None
    assert load_expected("llama31-8b-instruct-4bit", "H100") is not None


@pytest.mark.parametrize(
    ("short", "recovered", "figures"),
    [
        ("short-of-estimate", "short-of-estimate-recovered", ("kv_estimate_gib", "activation_peak_gib")),
        ("llama-3.2-3b-short-of-kv", "llama-3.2-3b-short-of-kv-recovered", ("activation_peak_gib",)),
    ],
)
def test_a_recovery_gained_what_was_predicted(short: str, recovered: str, figures: tuple[str, ...]):
    """The gain of `load --recover` on the card, from the first try of the failed load to the passing one, equals the predicted gain."""
    before, after = gather(H200 / short), gather(H200 / recovered)
    first_try = _numbers(parse_log(H200 / short / "load.log").attempts[0].figures)
    planned = json.loads((H200 / short / "run.json").read_text())["predicted"]
    assert before.predicted is not None and after.predicted is not None
    measured, predicted = _numbers(after.attempt.figures), _numbers(after.predicted)
    for figure in (*figures, "kv_cache_gib"):
        gained = measured[figure] - first_try[figure]
        assert gained == pytest.approx(predicted[figure] - planned[figure], abs=0.011), figure
