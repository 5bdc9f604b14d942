"""Judging logs: each bad log fails for its own reason, and each step of the judgement works alone."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from loadcheck.checking import gather
from loadcheck.errors import BadInput
from loadcheck.figures import Reading
from loadcheck.findings.interval import Interval
from loadcheck.logs.event import Event
from loadcheck.logs.event_lines import format_event
from loadcheck.logs.events import Answered, Attached, Done, Peak, SavedAdapter, Started, Stepped, Trained, WeightsLoaded
from loadcheck.specs.expected import Range
from loadcheck.specs.files import changed
from loadcheck.units import from_gib
from loadcheck.verdict import Check, Finding, Status, Verdict, judge
from loadcheck.verdict.golden import within
from tests.conftest import ROOT
from tests.sample_logs import sample_log, with_public_logs


def _failed(verdict: Verdict) -> dict[str, str]:
    """Each failing figure, with all its reasons."""
    failed: dict[str, str] = {}
    for finding in verdict.findings:
        if finding.status is Status.FAIL:
            failed[finding.figure] = failed.get(finding.figure, "") + finding.why + "\n"
    return failed


def test_the_t4_reference_passes_against_its_golden(t4_log: Path):
    """The reference passes every step: shape, stack, identities, prediction, golden."""
    verdict = judge(gather(t4_log))
    assert verdict.status == "pass"
    assert {finding.check for finding in verdict.findings} == {
        Check.SHAPE, Check.STACK, Check.IDENTITY, Check.MODEL, Check.GOLDEN,
    }  # fmt: skip


@pytest.mark.parametrize("arguments", [{}, {"profile_name": "llama31-8b-instruct-4bit"}, {"gpu": "T4"}])
def test_naming_the_profile_or_the_card_changes_nothing(arguments: dict[str, Any], t4_log: Path):
    """Naming the profile or the card that the log states changes nothing."""
    assert judge(gather(t4_log, **arguments)).status == "pass"


def test_our_h100_run_passes(h100_log: Path):
    """Our own run on another card passes by its prediction alone."""
    verdict = judge(gather(h100_log))
    assert verdict.status == "pass"
    compared = {finding.figure for finding in verdict.findings if finding.check is Check.MODEL}
    assert {"weights_gib", "activation_peak_gib", "num_gpu_blocks", "kv_estimate_gib", "cuda_graph_gib"} <= compared


REASONS = [
    ("length cut", "max_model_len", "unsloth cut max_seq_length"),
    ("two workers", "error", "max seq len (131072) is larger than"),
    ("negative cache", "num_gpu_blocks", "must hold one request"),
    ("v1", "outcome", "not finished"),
    ("wrong model name", "num_gpu_blocks", "block 416.0 KiB of gemma-3-1b-it"),
    ("wrong model name", "family", "gemma-3-1b-it has Gemma3"),
    ("repeated", "concurrency", "9 times in one attempt"),
    ("handwritten", "weights_gib", "`weights` (model_runner.py:1115) is not in"),
    ("handwritten", "outcome", "figures alone are no pass"),
    ("ends after blocks", "outcome", "its last known stage is blocks"),
    ("full length", "error", "max seq len (131072) is larger than"),
    ("negative non_torch", "num_gpu_blocks", "must hold one request"),
    ("shared device", "error", "No available memory"),
    ("notes", "attempts", "2 attempts"),
]
REASONS_PUBLIC = [
    ("gh_unsloth-2298_L4_phi3.5_util0.3_partial.txt", "max_model_len", "unsloth cut max_seq_length"),
    ("gh_vllm-13061_4090TP2_qwen14b_kvfail.txt", "error", "max seq len (131072) is larger than"),
    ("gh_vllm-13882_RTX4060-8G_qwen2.5-7b_negKV.txt", "num_gpu_blocks", "must hold one request"),
    ("gh_vllm-17122_L40S_llama3.1-8b_V1.txt", "outcome", "not finished"),
    (
        "nb_2025-03-18_HuggingFace_Course_Gemma3_1B_GRPO_2f83.txt",
        "num_gpu_blocks",
        "block 416.0 KiB of gemma-3-1b-it",
    ),
    ("nb_2025-03-18_HuggingFace_Course_Gemma3_1B_GRPO_2f83.txt", "family", "gemma-3-1b-it has Gemma3"),
    ("nb_2025-04-29_Meta_Synthetic_Data_Llama3.1_8B__0388.txt", "concurrency", "9 times in one attempt"),
    (
        "neg_fabricated_A100-40_qwen2.5-3b_handwritten.txt",
        "weights_gib",
        "`weights` (model_runner.py:1115) is not in",
    ),
    ("neg_fabricated_A100-40_qwen2.5-3b_handwritten.txt", "outcome", "figures alone are no pass"),
    ("web_2025-03-01_A10-22_qwen1.5b-class_vllm0.7.2.txt", "outcome", "its last known stage is blocks"),
    (
        "web_2025-03-25_A10G-22_llama3.1-8b-bf16_kvfail_vllm0.7.1.txt",
        "error",
        "max seq len (131072) is larger than",
    ),
    ("web_2025_RTX3050-6GB_qwen2.5-7b-bnb_negativeKV_vllm0.7.3.txt", "num_gpu_blocks", "must hold one request"),
    ("web_2026_JetsonOrin_JP6_qwen2.5-vl-7b-awq_cotenant.txt", "error", "No available memory"),
    ("web_V100-16_opt6.7b_offload_notes.txt", "attempts", "2 attempts"),
]


@pytest.mark.parametrize(("log", "figure", "reason"), with_public_logs(REASONS, REASONS_PUBLIC))
def test_bad_logs_fail_for_the_right_reason(log: str, figure: str, reason: str, tmp_path: Path):
    """A tampered, fabricated, failed or partial log fails, and a finding says why."""
    verdict = judge(gather(sample_log(log, tmp_path)))
    assert verdict.status == "fail"
    assert reason in _failed(verdict)[figure]


GENUINE = [
    "vllm 0.7.1 llama",
    "vllm 0.7.1 phi-4",
    "vllm 0.7.1 qwen",
    "vllm 0.8 llama",
    "vllm 0.8 mistral",
    "vllm 0.9 vision",
    "one line",
]
GENUINE_PUBLIC = [
    "nb_2025-02-06_Kaggle_Llama3.1_8B_GRPO_1390.txt",
    "nb_2025-02-06_Kaggle_Phi_4_GRPO_9046.txt",
    "nb_2025-02-06_Kaggle_Qwen2.5_3B_GRPO_e1fe.txt",
    "nb_2025-03-07_Llama3.1_8B_GRPO_6f48.txt",
    "nb_2025-05-13_HuggingFace_Course_Mistral_v0_3_7B_GRPO_d225.txt",
    "nb_2025-05-16_Advanced_Llama3_2_3B_GRPO_LoRA_8347.txt",
    "web_2025-08-29_4090D_qwen2.5-0.5b_oneline_unsloth2025.8.6.txt",
]


@pytest.mark.parametrize("log", with_public_logs(GENUINE, GENUINE_PUBLIC))
def test_genuine_logs_of_other_stacks_are_refused_not_failed(log: str, tmp_path: Path):
    """A log of other versions holds every identity, and is refused for its versions alone."""
    verdict = judge(gather(sample_log(log, tmp_path)))
    assert verdict.status == "refused"
    assert all(finding.check is Check.STACK for finding in verdict.failures())


@pytest.mark.parametrize(
    "log", with_public_logs(["vllm 0.7.1 llama"], ["nb_2025-02-06_Kaggle_Llama3.1_8B_GRPO_1390.txt"])
)
def test_another_version_fails_where_the_profile_is_named(log: str, tmp_path: Path):
    """If the profile is named, a log of another version is drift, which fails."""
    verdict = judge(gather(sample_log(log, tmp_path), profile_name="llama31-8b-instruct-4bit"))
    assert verdict.status == "fail"
    assert {"unsloth", "vllm"} == set(_failed(verdict))


def _edited(log: Path, tmp_path: Path, *changes: tuple[str, str]) -> Verdict:
    text = log.read_text()
    for before, after in changes:
        assert before in text
        text = text.replace(before, after)
    path = tmp_path / "edited.log"
    path.write_text(text)
    return judge(gather(path))


@pytest.mark.parametrize(
    "line",
    ["Loading model weights took", "Memory profiling takes", "# CUDA blocks", "Maximum concurrency", "init engine",
     "Unsloth: Your GPU has CUDA", "QKV layers", "Triton:"],
)  # fmt: skip
def test_a_line_that_is_missing_or_doubled_fails(line: str, t4_log: Path, tmp_path: Path):
    """Each required line must be there exactly once."""
    lines = t4_log.read_text().splitlines(keepends=True)
    for copies in (0, 2):
        path = tmp_path / f"{copies}.log"
        path.write_text("".join(each * (copies if line in each else 1) for each in lines))
        assert judge(gather(path)).status == "fail", copies


def test_a_16_bit_load_is_not_the_4_bit_profile(t4_log: Path, tmp_path: Path):
    """A load that silently was not quantized fails on the engine line, whatever was asked for."""
    verdict = _edited(t4_log, tmp_path, ("quantization=bitsandbytes", "quantization=None"))
    assert "quantization" in _failed(verdict)


def test_an_empty_cache_fails(t4_log: Path, tmp_path: Path):
    """A cache without room for a whole request fails, even if the engine went on."""
    verdict = _edited(t4_log, tmp_path, ("# CUDA blocks: 1353", "# CUDA blocks: 0"), ("42.28x", "0.00x"))
    assert "must hold one request" in _failed(verdict)["num_gpu_blocks"] or "num_gpu_blocks" in _failed(verdict)


def _eager(text: str) -> str:
    """The log as enforce_eager prints it (vllm/config.py:3318-3350, worker/worker.py:336): no sizes and no capture."""
    text = text.replace("enforce_eager=False", "enforce_eager=True")
    text = re.sub(r'"cudagraph_capture_sizes":\[[\d,]+\],"max_capture_size":\d+', _NO_SIZES, text)
    return "".join(
        line for line in text.splitlines(keepends=True) if not re.search(r"(?i)captur\w* ?cuda|graph cap", line)
    )


_NO_SIZES = '"cudagraph_capture_sizes":[],"max_capture_size":0'


def test_a_load_without_graphs_is_judged_without_them(t4_log: Path, tmp_path: Path):
    """With enforce_eager the lines about graphs are not required, but the profile must have asked for it."""
    log, wanted = tmp_path / "load.log", tmp_path / "eager.toml"
    log.write_text(_eager(t4_log.read_text()))
    reference = (ROOT / "env/profiles/llama31-8b-instruct-4bit.toml").read_text()
    wanted.write_text(reference.replace("\n[adapters]", "enforce_eager = true\n\n[adapters]", 1))
    assert judge(gather(log, profile_name=str(wanted))).status == "pass"
    judged = judge(gather(log, profile_name="llama31-8b-instruct-4bit"))
    assert "profile llama31-8b-instruct-4bit asks for False" in _failed(judged)["enforce_eager"]
    assert judge(gather(log)).status == "pass"  # no known profile, so judged by its own settings


def test_a_load_with_graphs_must_list_them(t4_log: Path, tmp_path: Path):
    """An empty list of sizes without enforce_eager fails a load with graphs."""
    text = re.sub(r'"cudagraph_capture_sizes":\[[\d,]+\],"max_capture_size":\d+', _NO_SIZES, t4_log.read_text())
    log = tmp_path / "load.log"
    log.write_text(text)
    assert "num_cuda_graphs" in _failed(judge(gather(log)))


def test_a_cut_length_is_never_silent(t4_log: Path, tmp_path: Path):
    """A load that succeeded only because unsloth cut max_seq_length fails on both the cut and the length."""
    cut = "Unsloth: Your GPU cannot handle sequence lengths of 512 due to limited GPU memory.\n"
    text = t4_log.read_text().replace("Unsloth: vLLM loading", cut + "Unsloth: vLLM loading", 1)
    log = tmp_path / "cut.log"
    log.write_text(text.replace("max_seq_len=512", "max_seq_len=256").replace("for 512 tokens", "for 256 tokens"))
    verdict = judge(gather(log, profile_name="llama31-8b-instruct-4bit"))
    assert "unsloth cut max_seq_length" in _failed(verdict)["max_model_len"]
    assert "asks for 512" in _failed(verdict)["max_model_len"]


def test_a_retry_is_never_silent(t4_log: Path, tmp_path: Path):
    """A load that succeeded only after unsloth's own retry does not pass."""
    retry = "Unsloth: Retrying vLLM to process 120 sequences and 512 tokens in tandem.\nError:\nCUDA out of memory. x\n"
    text = t4_log.read_text()
    cut = text.index("INFO 02-13 15:54:32 model_runner.py:1110] Starting")
    path = tmp_path / "retried.log"
    path.write_text(text[:cut] + retry + text[cut:])
    verdict = judge(gather(path))
    assert verdict.status == "fail"
    assert "2 attempts" in _failed(verdict)["attempts"]


def test_findings_point_into_the_log(t4_log: Path, tmp_path: Path):
    """A failing finding names the file, the line, the expected value and the fix."""
    verdict = _edited(t4_log, tmp_path, ("took 5.3541 GB", "took 5.3542 GB"))
    finding = next(f for f in verdict.failures() if f.check is Check.GOLDEN)
    line = 1 + t4_log.read_text()[: t4_log.read_text().index("took 5.3541 GB")].count("\n")
    assert (finding.figure, finding.measured, finding.low, str(finding.where)) == (
        "weights_gib",
        5.3542,
        5.3541,
        f"edited.log:{line}",
    )
    assert finding.remedy


def _lines(*events: Event) -> str:
    return "".join(format_event(event) + "\n" for event in events)


CPU_LOG = _lines(
    Started(model="smollm2-135m-instruct", max_model_len=512, quantization="nf4"),
    WeightsLoaded(weights_bytes=100),
    Attached(trainable_params=9),
    Answered(prompt="?", text="Paris.", num_new_tokens=2, expected="Paris", found=True),
    Peak(peak_device_bytes=500),
    Done(),
)


def _cpu_failures(tmp_path: Path, text: str) -> dict[str, str]:
    path = tmp_path / "load.log"
    path.write_text(text)
    failed = _failed(judge(gather(path)))
    return {
        figure: why for figure, why in failed.items() if "(runs: " not in why and "expected (" not in why
    }  # without the golden ranges


def test_a_cpu_log_is_judged_by_its_events(tmp_path: Path):
    """A complete CPU load passes; each missing event fails."""
    assert _cpu_failures(tmp_path, CPU_LOG) == {}
    for name in ("weights", "adapters", "answer", "peak", "done"):
        without = "".join(line for line in CPU_LOG.splitlines(keepends=True) if f'"event": "{name}"' not in line)
        assert name in _cpu_failures(tmp_path, without)


def test_a_wrong_answer_fails(tmp_path: Path):
    """With real weights the answer must contain the expected word, and at least one token."""
    assert "answer" in _cpu_failures(tmp_path, CPU_LOG.replace('"found": true', '"found": false'))
    assert "answer" in _cpu_failures(tmp_path, CPU_LOG.replace('"num_new_tokens": 2', '"num_new_tokens": 0'))


def test_a_gpu_load_without_vllm_is_judged_by_banner_and_events(tmp_path: Path, t4_log: Path):
    """Without vLLM none of its lines is required, and none of its figures is predicted."""
    banner = "".join(t4_log.read_text().splitlines(keepends=True)[1:6])
    patched = t4_log.read_text().splitlines()[-1] + "\n"
    events = _lines(Answered(text="x", num_new_tokens=1, expected=None, found=None), Done())
    path = tmp_path / "load.log"
    path.write_text(banner + patched + events)
    evidence = gather(path, profile_name="llama31-8b-instruct-4bit")
    assert evidence.profile is not None
    without = dataclasses.replace(evidence, profile=changed(evidence.profile, {"fast_inference": False}), expected=None)
    assert judge(without).status == "pass"
    assert judge(evidence).status == "fail"


TRAINED = Trained(first_loss=2.0, last_loss=1.0, base_unchanged=True, adapter_changed=True)


@pytest.mark.parametrize(
    ("change", "figure"),
    [
        ({}, None),
        ({"last_loss": 2.5}, "loss"),
        ({"last_loss": 2.0}, "loss"),
        ({"base_unchanged": False}, "base weights"),
        ({"adapter_changed": False}, "adapter weights"),
    ],
)
def test_training_is_judged(change: dict[str, object], figure: str | None, tmp_path: Path):
    """The loss must fall, the base must not change, and the adapters must; each is its own finding."""
    text = CPU_LOG + _lines(structs.replace(TRAINED, **change))
    assert set(_cpu_failures(tmp_path, text)) == ({figure} if figure else set())


@pytest.mark.parametrize(("num_steps", "failing"), [(1, set()), (2, {"loss"})])
def test_one_step_has_one_loss(num_steps: int, failing: set[str], tmp_path: Path):
    """After one step the first loss is the last, and need not have fallen; after two it must have."""
    steps = _lines(*(Stepped(step=step, loss=2.0) for step in range(num_steps)))
    text = CPU_LOG + steps + _lines(structs.replace(TRAINED, last_loss=2.0))
    assert set(_cpu_failures(tmp_path, text)) == failing


@pytest.mark.parametrize(
    ("change", "figure"),
    [({}, None), ({"same_weights": False}, "saved adapter"), ({"num_same_tokens": 0}, "saved adapter")],
)
def test_saved_adapters_are_those_in_memory(change: dict[str, object], figure: str | None, tmp_path: Path):
    """Adapters that differ from what was saved, or whose answer begins differently, fail the run."""
    saved = SavedAdapter(same_weights=True, num_same_tokens=9, num_new_tokens=32)
    assert set(_cpu_failures(tmp_path, CPU_LOG + _lines(structs.replace(saved, **change)))) == (
        {figure} if figure else set()
    )


@pytest.mark.parametrize(
    ("event", "figure"),
    [
        (structs.replace(TRAINED, base_unchanged=None), "base weights"),
        (structs.replace(TRAINED, adapter_changed=None), "adapter weights"),
        (SavedAdapter(same_weights=True, num_new_tokens=32), "saved adapter"),
    ],
)
def test_a_missing_proof_fails_as_not_in_the_log(event: Event, figure: str, tmp_path: Path):
    """Where an event lacks the result of a comparison, the load fails, but it is not accused of what was not seen."""
    why = _cpu_failures(tmp_path, CPU_LOG + _lines(event))
    assert set(why) == {figure}
    assert why[figure].rstrip().endswith(": not in log")


def _finding(status: Status) -> Finding:
    return Finding(figure="x", check=Check.SHAPE, status=status)


@pytest.mark.parametrize(
    ("statuses", "verdict"),
    [
        ([Status.OK], "pass"),
        ([Status.OK, Status.SKIPPED], "pass"),
        ([Status.SKIPPED], "skipped"),
        ([], "skipped"),
        ([Status.OK, Status.REFUSED], "refused"),
        ([Status.OK, Status.REFUSED, Status.FAIL], "fail"),
    ],
)
def test_a_verdict_is_its_worst_finding(statuses: list[Status], verdict: str):
    """One failure fails; a refusal is no pass; if nothing was compared the verdict is skipped, never pass."""
    assert Verdict(tuple(_finding(status) for status in statuses)).status == verdict


def test_ranges_include_their_ends():
    """A range includes its ends; an exact value matches at the printed precision."""
    reading = Reading("kv_cache_bytes", from_gib(2.64), 2, 1)
    assert within(reading, Range(low=2.64, high=2.7, why="x"))
    assert within(reading, Range(low=2.6, high=2.64, why="x"))
    assert not within(reading, Range(low=2.65, high=2.7, why="x"))
    assert within(reading, Range(exactly=2.64, why="x"))
    assert not within(reading, Range(exactly=2.65, why="x"))


def test_interval_arithmetic_covers_every_combination():
    """Sums, differences and products contain every combination of their operands."""
    one, two = Interval(1, 2), Interval(-3, 4)
    assert (one + two, one - two, one * two) == (Interval(-2, 6), Interval(-3, 5), Interval(-6, 8))
    assert one.meets(Interval(2, 3)) and not one.meets(Interval(2.1, 3))


def test_an_unknown_profile_or_card_is_bad_input(t4_log: Path):
    """A misspelt name is an error, not a silent default."""
    with pytest.raises(BadInput, match="did you mean"):
        gather(t4_log, profile_name="llama31-8b-instruct-4bt")
    with pytest.raises(BadInput, match="no GPU 'T5'"):
        gather(t4_log, gpu="T5")
