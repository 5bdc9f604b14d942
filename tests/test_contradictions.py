"""Contradictions: impossible amounts and times in events, impossible settings in an engine's line, and files of a training that disagree."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from loadcheck import cli
from loadcheck.checking import gather
from loadcheck.errors import BadInput
from loadcheck.logs.event_lines import PREFIX
from loadcheck.training import judge_training_folder
from loadcheck.verdict import Status, judge
from tests.conftest import RUNS
from tests.judging import failed_training_figures

T4 = (RUNS / "t4_llama31-8b_reference.txt").read_text(encoding="utf-8")
H200 = RUNS / "h200" / "reference-train3"
PACKED = Path(__file__).parent / "training" / "h200-packed"
ON_CPU = Path(__file__).parent / "training" / "run"


def _failed(text: str, log: Path) -> set[str]:
    log.write_text(text, encoding="utf-8")
    return {finding.figure for finding in judge(gather(log)).findings if finding.status is Status.FAIL}


# ----------------------------------------------------------------------------------------------------------------- the events


@pytest.mark.parametrize(
    ("event", "field", "value"),
    [
        ("loaded", "allocated_bytes", 90_005_569_537),
        ("loaded", "reserved_bytes", 91_166_146_561),
        ("adapters", "peak_allocated_bytes", 89_915_271_167),
        ("answer", "peak_reserved_bytes", 90_156_564_479),
        ("trained", "used_bytes", 150_109_880_321),
        ("peak", "peak_device_bytes", 93_124_886_529),
        ("trained", "train_s", 99.5),
        ("answer", "at_s", 1.5),
    ],
)
def test_impossible_amounts_and_times_fail(event: str, field: str, value: float, tmp_path: Path):
    """More in torch's blocks than it reserves, a falling peak, more in use than the card has, and times out of order fail."""
    text = (H200 / "load.log").read_text(encoding="utf-8")
    changed, count = re.subn(rf'(loadcheck: {{"event": "{event}", .*?"{field}": )[\d.]+', rf"\g<1>{value}", text)
    assert count == 1
    assert (_failed(text, tmp_path / "as-it-is.log"), _failed(changed, tmp_path / "changed.log")) == (set(), {event})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"peak_device_bytes": 300_000_000_000}, "300000000000 bytes of the card were in use"),
        ({"exit_code": 137}, "its exit code was 137"),
        ({"duration_s": 29.1}, "it took 29.1 s, and the engine's events go on until 29.157 s after its process began"),
    ],
)
def test_a_completed_run_whose_record_cannot_be_true_fails(changes: dict[str, Any], words: str, tmp_path: Path):
    """A run that used more memory than the card has, ended with an exit code, or was over before its last event, did not complete."""
    run = tmp_path / "run"
    shutil.copytree(H200, run)
    assert judge(gather(run)).status == "pass"
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(record | changes))
    (process,) = [finding for finding in judge(gather(run)).findings if finding.figure == "process"]
    assert process.status is Status.FAIL and words in process.why


@pytest.mark.parametrize("seconds", [29.15, 29.16, 31.36, None])
def test_a_run_takes_as_long_as_its_events_or_longer(seconds: float | None, tmp_path: Path):
    """The run's duration is that of both of its processes, and is rounded to hundredths of a second."""
    run = tmp_path / "run"
    shutil.copytree(H200, run)
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(record | {"duration_s": seconds}))
    assert judge(gather(run)).status == "pass"


def test_a_training_that_was_over_before_its_last_event_fails(tmp_path: Path):
    """A training's record is held to its events, too."""
    run = tmp_path / "run"
    shutil.copytree(ON_CPU, run)
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(record | {"duration_s": 17.0}))
    assert failed_training_figures(run) == {"process"}


def test_a_negative_loss_fails(tmp_path: Path):
    """A cross-entropy is never negative."""
    run = tmp_path / "run"
    shutil.copytree(H200, run)
    text = (run / "load.log").read_text(encoding="utf-8")
    changed, count = re.subn(r'("event": "step", [^}]*"step": 1, "loss": )[\d.]+', r"\g<1>-11.4", text)
    assert count == 1
    (run / "load.log").write_text(changed, encoding="utf-8")
    assert {finding.figure for finding in judge(gather(run)).findings if finding.status is Status.FAIL} == {"losses"}


LINUX, WSL = "6.8.0-45-generic", "5.15.167.4-microsoft-standard-WSL2"


def _on_kernel(text: str, kernel: str, changes: dict[str, dict[str, int]]) -> str:
    """A log of our engine with the host's kernel in it, and with fields of its events changed."""
    lines = text.splitlines(keepends=True)
    for number, line in enumerate(lines):
        if line.startswith(PREFIX):
            event = json.loads(line.removeprefix(PREFIX))
            kernels = {"kernel": kernel} if event["event"] == "device" else {}
            lines[number] = f"{PREFIX}{json.dumps(event | kernels | changes.get(event['event'], {}))}\n"
    return "".join(lines)


PAGED = {
    "trained": {"used_bytes": 85_000_000_000},
    "peak": {"used_bytes": 85_000_000_000, "peak_device_bytes": 85_000_000_000},
}
TOO_LARGE = 150_109_880_321
LAST_EVENTS = ("trained", "answer_after_training", "peak")
OVERFLOW = {
    name: {"used_bytes": 93_124_886_528, "reserved_bytes": TOO_LARGE, "peak_reserved_bytes": TOO_LARGE}
    for name in LAST_EVENTS
}
ONCE_TOO_LARGE = {
    "peak": {"peak_reserved_bytes": TOO_LARGE, "peak_device_bytes": 93_124_886_528 - 91_895_103_488 + TOO_LARGE}
}


@pytest.mark.parametrize(
    ("kernel", "changes", "figures"),
    [
        (WSL, {}, set()),
        (WSL, PAGED, set()),
        (LINUX, PAGED, {"trained", "peak", "peak_device_gib"}),
        (WSL, OVERFLOW, {"device memory"}),
        (LINUX, OVERFLOW, {*LAST_EVENTS}),
        (WSL, ONCE_TOO_LARGE, {"device memory", "peak_device_gib"}),
        # a note on one event is no pass for other contradictions, nor for another peak than the predicted one
        (WSL, {"loaded": {"used_bytes": 90_000_000_000}, "peak": {"used_bytes": 99_000_000_000, "peak_device_bytes": 99_000_000_000}}, {"peak_device_gib"}),
        (WSL, {"peak": {"used_bytes": 89_000_000_000, "peak_device_bytes": 89_000_000_000, "reserved_bytes": 88_000_000_000}}, {"peak"}),
        (WSL, {**PAGED, "answer": {"allocated_bytes": 90_628_423_681}}, {"answer"}),
        (WSL, {"trained": {"used_bytes": 150_109_880_321}}, {"trained"}),
    ],
)  # fmt: skip
def test_paged_memory_is_no_contradiction(
    kernel: str, changes: dict[str, dict[str, int]], figures: set[str], tmp_path: Path
):
    """In WSL2 torch may have more than is in use on the card, but not more than the card has; elsewhere neither can be true."""
    text = (H200 / "load.log").read_text(encoding="utf-8")
    assert _failed(_on_kernel(text, kernel, changes), tmp_path / "load.log") == figures


def test_paged_memory_is_noted(tmp_path: Path):
    """The note names one event with both amounts, and Windows."""
    (tmp_path / "load.log").write_text(
        _on_kernel((H200 / "load.log").read_text(encoding="utf-8"), WSL, PAGED), encoding="utf-8"
    )
    verdict = judge(gather(tmp_path / "load.log"))
    (note,) = [each.why for each in verdict.findings if each.status is Status.SKIPPED and "Windows" in each.why]
    assert note.startswith("reserved_bytes is 91895103488, more than used_bytes, 85000000000: Windows had moved some")
    assert verdict.passed


def test_the_parts_of_a_cpus_weights_add_up(tmp_path: Path):
    """The weights by kind must add up to the total that the engine records."""
    folder = _copy(ON_CPU, tmp_path)
    _replace(folder / "load.log", '"norms": 70272', '"norms": 60272')
    assert failed_training_figures(folder) == {"weights"}


def test_a_truncated_event_in_our_run_is_named(tmp_path: Path):
    """A truncated event in our own run is named, although no load needs that line; a foreign log may be from a terminal that broke it."""
    folder = _copy(H200, tmp_path)
    with (folder / "load.log").open("a", encoding="utf-8") as log:
        log.write('loadcheck: {"event": "step", "at_s": 29.2, "st\n')
    found = {finding.figure for finding in judge(gather(folder)).failures()}
    assert found == {"step"}
    assert _failed((folder / "load.log").read_text(encoding="utf-8"), tmp_path / "pasted.log") == set()


# ------------------------------------------------------------------------------------------------------- what the engine was asked for


@pytest.mark.parametrize(
    ("was", "now", "figure"),
    [
        ("chunked_prefill_enabled=False", "chunked_prefill_enabled=True", "chunked_prefill_enabled"),
        ("num_scheduler_steps=1", "num_scheduler_steps=8", "num_scheduler_steps"),
        ("trust_remote_code=False", "trust_remote_code=True", "trust_remote_code"),
        ("tokenizer='unsloth/meta-llama-3.1-8b-instruct-bnb-4bit'", "tokenizer='unsloth/llama-2-7b'", "tokenizer"),
        ("Casting torch.bfloat16 to torch.float16", "Casting torch.float16 to torch.bfloat16", "dtype"),
        ("Bfloat16 = FALSE", "Bfloat16 = TRUE", "bfloat16"),
        ("FA2 = False", "FA2 = True", "flash_attention_2"),
        ("Using XFormers backend", "Using Flash Attention backend", "attention_backend"),
    ],
)
def test_an_impossible_setting_is_named(was: str, now: str, figure: str, tmp_path: Path):
    """A setting is impossible by the stack, by the card, or by another line, and is named."""
    assert was in T4
    assert figure in _failed(T4.replace(was, now), tmp_path / "load.log")


def test_chunked_prefill_must_match_the_profile(tmp_path: Path):
    """vLLM alone uses chunked prefill only if the profile requests it."""
    folder = _copy(RUNS / "h200" / "plain-llama-3.2-1b-fp8-chunked", tmp_path)
    assert judge(gather(folder)).passed
    _replace(folder / "load.log", "chunked_prefill_enabled=True", "chunked_prefill_enabled=False")
    assert {finding.figure for finding in judge(gather(folder)).failures()} == {"chunked_prefill_enabled"}


def test_our_runs_use_one_card(tmp_path: Path):
    """No profile uses several cards, and their figures are not predicted, so a run with them is no pass."""
    folder = _copy(RUNS / "h200" / "plain-granite-3.1-2b-16bit", tmp_path)
    _replace(folder / "load.log", "tensor_parallel_size=1", "tensor_parallel_size=2")
    assert "tensor_parallel_size" in {finding.figure for finding in judge(gather(folder)).failures()}


@pytest.mark.parametrize("prefix", ["(VllmWorkerProcess pid=9) ", "[rank1]: ", "(VllmWorker rank=1 pid=9) "])
def test_a_line_of_another_rank_does_not_end_the_prediction(prefix: str, tmp_path: Path):
    """A run of ours is on one card; as its figures would not be predicted then, a line of another rank is a failure."""
    line = f"{prefix}INFO 11-24 model_runner.py:1115] Loading model weights took 5.3541 GB\n"
    folder = _copy(RUNS / "h200" / "plain-qwen2.5-7b", tmp_path)
    with (folder / "load.log").open("a", encoding="utf-8") as log:
        log.write(line)
    assert "tensor_parallel" in {finding.figure for finding in judge(gather(folder)).failures()}


def test_a_card_with_flash_attention_does_not_lack_it(tmp_path: Path):
    """vLLM prints this line only on Volta and Turing."""
    text = (H200 / "load.log").read_text(encoding="utf-8")
    words = "INFO cuda.py:183] Cannot use FlashAttention-2 backend for Volta and Turing GPUs.\n"
    at = text.index("INFO", text.index("Initializing a V0"))
    assert _failed(text[:at] + words + text[at:], tmp_path / "load.log") == {"no_flash_attention"}


# ---------------------------------------------------------------------------------------------------------- the files of a training


def _copy(folder: Path, into: Path) -> Path:
    shutil.copytree(folder, into / "run")
    return into / "run"


def _replace(file: Path, was: str, now: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert was in text
    file.write_text(text.replace(was, now, 1), encoding="utf-8")


SAID_TWICE = [
    ("plan.json", '"lora_alpha": 32', '"lora_alpha": 64', "plan.json"),
    ("plan.json", '"quantization": "nf4"', '"quantization": "16bit"', "plan.json"),
    ("run.json", '"max_seq_length": ', '"max_seq_length": 1', "plan.json"),
    ("train.json", '"seed": 3407', '"seed": 3408', "train.json"),
    ("run.json", '"save_steps": ', '"weight_decay": 0.5, "save_steps": ', "train.json"),
    ("rows.json", '"num_rows": 50', '"num_rows": 51', "rows.json"),
    ("load.log", '"step": 2, "loss": ', '"step": 2, "loss": 1', "steps"),
    ("load.log", '"step": 2, "loss": ', '"step": 1, "loss": ', "steps"),
    ("steps.jsonl", '"host_bytes":', '"host_bytes":1', "steps"),
    ("steps.jsonl", '"learning_rate":0.0002', '"learning_rate":0.2', "steps"),
    ("load.log", '"num_steps": ', '"num_steps": 1', "steps"),
    ("load.log", '"total_params": ', '"total_params": 1', "total_params"),
]
"""What a file has, what it has instead, and the finding that names it."""


def check_said_twice(folder: Path, file: str, was: str, now: str, figure: str, copy: Path) -> None:
    """An unchanged copy of a training passes; with one value changed, the finding names it."""
    shutil.copytree(folder, copy)
    _replace(copy / file, was, now)
    assert figure in failed_training_figures(copy)


@pytest.mark.parametrize(("file", "was", "now", "figure"), SAID_TWICE)
def test_files_of_a_training_that_disagree_are_named(file: str, was: str, now: str, figure: str, tmp_path: Path):
    """Each value is in several of a training's files; one that disagrees is named. For a GPU's training: tests/sweeps."""
    check_said_twice(ON_CPU, file, was, now, figure, tmp_path / "run")


def test_more_tokens_than_the_rows_of_a_batch_hold_fail(tmp_path: Path):
    """Two rows of at most 60 tokens hold no more than 120."""
    folder = _copy(ON_CPU, tmp_path)
    _replace(folder / "steps.jsonl", '"num_tokens":120', '"num_tokens":121')
    assert "steps" in failed_training_figures(folder)


@pytest.mark.parametrize(
    ("kernel", "reserved_bytes", "figures"),
    [
        (WSL, 8_300_000_000, set()),
        (LINUX, 8_300_000_000, {"steps", "train_peak"}),
        (WSL, TOO_LARGE, {"device memory"}),
    ],
)
def test_a_training_in_wsl2_may_have_been_paged(kernel: str, reserved_bytes: int, figures: set[str], tmp_path: Path):
    """As for a load: a step with more of torch's than is in use on the card is noted, unless the card could not have held it."""
    folder = _copy(PACKED, tmp_path)
    changes = {"train_peak": {"train_reserved_bytes": reserved_bytes, "train_peak_reserved_bytes": reserved_bytes}}
    text = (folder / "load.log").read_text(encoding="utf-8")
    (folder / "load.log").write_text(_on_kernel(text, kernel, changes), encoding="utf-8")
    _replace(folder / "steps.jsonl", '"reserved_bytes":7293894656', f'"reserved_bytes":{reserved_bytes}')
    assert failed_training_figures(folder) == figures


def test_a_step_that_the_card_could_not_have_held_fails(tmp_path: Path):
    """The reserve of each step is in steps.jsonl alone."""
    folder = _copy(PACKED, tmp_path)
    text = (folder / "load.log").read_text(encoding="utf-8")
    (folder / "load.log").write_text(_on_kernel(text, WSL, {}), encoding="utf-8")
    _replace(folder / "steps.jsonl", '"reserved_bytes":7291797504', f'"reserved_bytes":{TOO_LARGE}')
    assert failed_training_figures(folder) == {"device memory"}


@pytest.mark.parametrize(("kernel", "figures"), [(WSL, set()), (LINUX, {"steps", "train_peak_device_gib"})])
def test_the_peak_of_a_paged_card_is_known_from_below(kernel: str, figures: set[str], tmp_path: Path):
    """What is in use on the card may be less than predicted where Windows moved the rest; on Linux that is a failure."""
    folder = _copy(PACKED, tmp_path)
    steps = (folder / "steps.jsonl").read_text(encoding="utf-8")
    (folder / "steps.jsonl").write_text(
        re.sub(r'("device_used_bytes":)\d+', r"\g<1>7000000000", steps), encoding="utf-8"
    )
    text = _on_kernel(
        (folder / "load.log").read_text(encoding="utf-8"),
        kernel,
        {"train_begin": {"train_device_used_bytes": 6_999_000_000}},
    )
    (folder / "load.log").write_text(
        re.sub(r'(step": \d, .*"train_device_used_bytes": )\d+', r"\g<1>7000000000", text), encoding="utf-8"
    )
    assert failed_training_figures(folder) - {"train_step"} == figures


@pytest.mark.parametrize(("last", "figures"), [(7_200_000_000, set()), (7_500_000_000, {"train_peak_device_gib"})])
def test_a_card_that_was_not_paged_has_its_whole_peak(last: int, figures: set[str], tmp_path: Path):
    """In WSL2, too, a peak that is lower than predicted fails, unless a step had more of torch's memory than was in use on the card."""
    folder = _copy(PACKED, tmp_path)
    steps = re.sub(
        r'("device_used_bytes":)\d+', r"\g<1>7500000000", (folder / "steps.jsonl").read_text(encoding="utf-8")
    )
    head, _, end = steps.rpartition("7500000000")
    (folder / "steps.jsonl").write_text(f"{head}{last}{end}", encoding="utf-8")
    text = _on_kernel((folder / "load.log").read_text(encoding="utf-8"), WSL, {})
    text = re.sub(r'("train_device_used_bytes": )8\d+', r"\g<1>7500000000", text)
    head, _, end = text.rpartition("7500000000")
    (folder / "load.log").write_text(f"{head}{last}{end}", encoding="utf-8")
    assert failed_training_figures(folder) == figures


def test_parameters_must_match_the_rank(tmp_path: Path):
    """The number of parameters must match the rank, also on a GPU, where no line of a load names the model."""
    folder = _copy(PACKED, tmp_path)
    _replace(folder / "load.log", '"trainable_params": 41943040', '"trainable_params": 21943040')
    assert {"trainable_params", "adapter bytes"} <= failed_training_figures(folder)


@pytest.mark.parametrize("file", ["plan.json", "train.json", "rows.json"])
@pytest.mark.parametrize("text", ["", "[1, 2", "\0", '{"a": NaN}', "\ud800"])
def test_an_unreadable_file_of_a_training_is_bad_input(
    file: str, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Exit 2 and one line that names the file, from every command that reads it; no traceback."""
    folder = _copy(ON_CPU, tmp_path)
    (folder / file).write_bytes(text.encode("utf-8", "surrogatepass"))
    for command in (["check", str(folder)], ["report", str(folder), "--json"], ["compare", str(folder), str(ON_CPU)]):
        assert cli.run(command) == 2
        output = capsys.readouterr().err
        assert (file in output, output.count("\n")) == (True, 1)


def test_a_training_without_its_plan_is_bad_input(tmp_path: Path):
    """A training is judged by the plan that it was loaded with, so without it the run is bad input."""
    folder = _copy(ON_CPU, tmp_path)
    (folder / "plan.json").unlink()
    with pytest.raises(BadInput, match="plan.json"):
        judge_training_folder(folder)


def test_the_files_of_the_kept_trainings_agree():
    """The files of the kept trainings agree with each other, and with what was predicted before."""
    for folder in (PACKED, ON_CPU, PACKED.parent / "h200-resumed"):
        record: dict[str, Any] = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        assert (record["outcome"], failed_training_figures(folder)) == ("completed", set())


# ---------------------------------------------------------------------------------------------------------------- a server's log

SERVED = Path(__file__).parent / "served" / "adapters.log"


@pytest.mark.parametrize(
    ("was", "now", "figure"),
    [
        ("# CPU blocks: 2048", "# CPU blocks: 2047", "num_cpu_blocks"),
        ("total_gpu_memory (139.80GiB)", "total_gpu_memory (139.70GiB)", "budget_gib"),
        ('sizes":[64,56,', 'sizes":[64,53,', "graph_sizes"),
        ("max_model_len=2048", "max_model_len=2047", "max_model_len"),
        ("gpu_memory_utilization=0.6", "gpu_memory_utilization=0.7", "gpu_memory_utilization_pct"),
    ],
)
def test_a_servers_arguments_must_match_its_engine(was: str, now: str, figure: str, tmp_path: Path):
    """A server prints its exact arguments, and its engine's figures must follow from them."""
    text = SERVED.read_text(encoding="utf-8")
    assert _failed(text, tmp_path / "as-it-is.log") == set()
    assert was in text
    assert figure in _failed(text.replace(was, now, 1), tmp_path / "changed.log")


def test_a_server_without_its_port_did_not_start(tmp_path: Path):
    """uvicorn reports a port in use after the engine has started, and ends."""
    taken = (
        "ERROR:    [Errno 98] error while attempting to bind on address ('127.0.0.1', 8011): address already in use\n"
    )
    assert "error" in _failed(SERVED.read_text(encoding="utf-8") + taken, tmp_path / "server.log")


@pytest.mark.parametrize(("folder", "package"), [(H200, "peft"), (H200, "vllm"), (ON_CPU, "bitsandbytes")])
def test_a_package_that_a_run_does_not_report_is_named(folder: Path, package: str, tmp_path: Path):
    """Each of our engines reports every package; a foreign log reports none."""
    copy = _copy(folder, tmp_path)
    log = copy / "load.log"
    log.write_text(re.sub(rf'"{package}": "[^"]+", ', "", log.read_text(encoding="utf-8")), encoding="utf-8")
    failed = (
        failed_training_figures(copy)
        if folder == ON_CPU
        else {finding.figure for finding in judge(gather(copy)).failures()}
    )
    assert package in failed
