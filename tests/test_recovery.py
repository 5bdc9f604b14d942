"""`load --recover` from end to end without a GPU: the T4 of env/gpus.toml, and an engine that prints the predicted figures."""

import dataclasses
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from loadcheck import cli
from loadcheck.device import GpuDevice
from loadcheck.doctor import Finding, Level, Report
from loadcheck.loading import judge_folder
from loadcheck.predict import card_from_table
from loadcheck.preparing import settled_gpu
from loadcheck.recovery import short_of
from loadcheck.specs.profile import load_profile
from loadcheck.specs.trouble import load_troubles
from loadcheck.stacks import parse_log
from loadcheck.units import GIB
from tests import fake_engine
from tests.conftest import RUNS
from tests.test_diagnosis import OOM, OOM_AFTER

PROFILE = "llama31-8b-instruct-4bit"
T4 = card_from_table("T4")


@pytest.fixture(autouse=True)
def t4(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine with a T4, the whole stack, no problems, and the fake engine."""
    gpu = GpuDevice("Tesla T4", "7.5", T4.total_bytes, T4.free_bytes, "12.4")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("loadcheck.device.read_gpu", lambda: gpu)
    monkeypatch.setattr("loadcheck.preparing.read_gpu", lambda: gpu)
    monkeypatch.setattr("loadcheck.preparing.ram_available_bytes", lambda: fake_engine.RAM_BYTES)
    monkeypatch.setattr("loadcheck.preparing._require_packages", lambda profile: None)
    monkeypatch.setattr("loadcheck.doctor.examine", lambda machine, plan: Report(plan.profile.name, ()))
    monkeypatch.setattr("loadcheck.running.child_command", lambda step, folder: fake_engine.command(step, folder.path))


def _load(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any], str]:
    """The exit code, the JSON document, and the progress on stderr."""
    code = cli.run(["load", PROFILE, "--json", "--run-dir", "run", *arguments])
    captured = capsys.readouterr()
    return code, json.loads(captured.out), captured.err


def test_from_a_refusal_to_a_passing_load(capsys: pytest.CaptureFixture[str]):
    """Settings that do not fit a T4 are not loaded; the first step that fits is, with the predicted gain."""
    code, document, _ = _load(capsys, "--max-seq-length", "32768", "--recover")
    found = document["recovery"]
    assert (code, document["verdict"], found["passed"], len(found["attempts"])) == (0, "pass", True, 1)
    assert [step["fits"] for step in found["steps"]] == [False, False, True]
    assert [step["attempt"] for step in found["steps"]] == [None, None, 1]
    gains = {gain["figure"]: gain for gain in found["gains"]}
    assert gains["kv_cache_gib"]["before"] == "predicted"
    assert {gain["agrees"] for gain in found["gains"]} == {True}


def test_the_passing_settings_are_saved_as_a_profile(capsys: pytest.CaptureFixture[str]):
    """recovered.toml beside the passing run has exactly its settings, and loads without recovery; the flags match."""
    _, document, _ = _load(capsys, "--max-seq-length", "32768", "--recover")
    kept = Path(document["recovery"]["profile"])
    assert kept == Path("run/recovered.toml")
    ran = judge_folder(Path("run")).record.profile
    profile = load_profile(str(kept))
    assert (profile.max_seq_length, profile.gpu_memory_utilization) == (23040, ran["gpu_memory_utilization"])
    assert (
        document["recovery"]["flags"]
        == f"--max-seq-length 23040 --gpu-memory-utilization {ran['gpu_memory_utilization']}"
    )
    assert cli.run(["load", str(kept), "--run-dir", "again"]) == 0


def test_a_load_that_fits_needs_no_recovery(capsys: pytest.CaptureFixture[str]):
    """The reference loads as usual, reports that there is nothing to recover, and leaves no profile."""
    code, document, _ = _load(capsys, "--recover")
    assert (code, document["verdict"], document["recovery"]["needed"], document["recovery"]["profile"]) == (
        0,
        "pass",
        False,
        None,
    )
    assert document["recovery"]["passed"]
    assert not Path("run/recovered.toml").exists()


def test_without_recover_nothing_is_changed(capsys: pytest.CaptureFixture[str]):
    """Without --recover a refused load changes nothing."""
    code, document, _ = _load(capsys, "--max-seq-length", "32768")
    assert (code, document["outcome"], "recovery" in document) == (1, "refused", False)


def test_with_force_the_failing_load_is_measured(capsys: pytest.CaptureFixture[str]):
    """With --force the load is tried as given; its log shows the KV cache, and the measured gain equals the predicted one."""
    code, document, _ = _load(capsys, "--gpu-memory-utilization", "0.4", "--recover", "--force")
    found = document["recovery"]
    assert code == 0
    assert [(each["run"], each["verdict"], each["short"]) for each in found["attempts"]] == [
        ("run", "fail", "kv_estimate"),
        ("run-attempt2", "pass", None),
    ]
    gains = {gain["figure"]: gain for gain in found["gains"]}
    assert gains["kv_cache_gib"]["before"] == "attempt 1"
    assert gains["kv_cache_gib"]["measured_gain_gib"] == pytest.approx(
        gains["kv_cache_gib"]["predicted_gain_gib"], abs=0.011
    )
    assert gains["kv_cache_gib"]["agrees"] is True
    peak = gains["peak_device_gib"]
    assert (peak["measured_gain_gib"], peak["agrees"]) == (None, None)


def test_after_an_unpredicted_failure_more_is_left(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """If it runs out of memory although it should fit, the next step leaves more than the predicted peak."""
    monkeypatch.setenv("FAKE_SPIKE_BYTES", str(int(1.2 * GIB)))
    code, document, _ = _load(capsys, "--gpu-memory-utilization", "0.9", "--recover")
    found = document["recovery"]
    assert (code, found["attempts"][0]["short"], found["passed"]) == (0, "peak", True)
    assert found["steps"][-1]["step"] == "another utilization"
    assert found["steps"][-1]["short"] == "peak"
    assert load_profile(found["profile"]).gpu_memory_utilization < 0.9


def test_a_missing_kv_cache_is_gained_too(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """If the log shows how much KV cache was missing, the next step gains that as well."""
    monkeypatch.setenv("FAKE_NON_TORCH_BYTES", _more_non_torch(0.09))
    code, document, _ = _load(capsys, *TIGHT_KV, "--recover")
    found = document["recovery"]
    assert (code, found["attempts"][0]["short"], found["passed"]) == (0, "kv_cache", True)
    gain = next(each for each in found["gains"] if each["figure"] == "kv_cache_gib")
    assert gain["agrees"] is True


# Small weights and a long request: here vLLM's own KV cache is short, by 9 MiB, and not unsloth's estimate.
TIGHT_KV = (
    "--model", "qwen2.5-3b-instruct", "--weights", "synthetic", "--max-seq-length", "8192", "--gpu-memory-utilization", "0.205",
)  # fmt: skip


def _more_non_torch(gib: float) -> str:
    """The non_torch bytes to add to the T4's so that vLLM prints just `gib`."""
    assert T4.non_torch_bytes is not None
    return str(int(gib * GIB) - T4.non_torch_bytes)


def test_a_successful_retry_is_no_pass(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """unsloth's retry loads with fewer sequences than requested: a finding, and the ladder finds settings that need no retry."""
    monkeypatch.setenv("FAKE_MOST_SEQUENCES", "150")
    code, document, _ = _load(capsys, "--recover")
    first = judge_folder(Path("run"))
    assert (first.record.outcome, len(parse_log(Path("run/load.log")).attempts)) == ("completed", 2)
    assert any("2 attempts at a load" in finding.why for finding in first.verdict.failures())
    assert (code, document["recovery"]["attempts"][0]["short"]) == (0, "peak")
    assert len(parse_log(Path(document["run"]) / "load.log").attempts) == 1


def test_a_short_request_runs_fewer_sequences(capsys: pytest.CaptureFixture[str]):
    """If the request is shorter than the number of sequences, fewer sequences run, and the gain is in tokens."""
    code, document, _ = _load(capsys, "--max-seq-length", "128", "--recover")
    step = document["recovery"]["steps"][0]
    assert (code, step["changes"], step["gain_tokens"], step["gain_gib"]) == (
        0,
        ["conservativeness 1.0 → 0.75"],
        40,
        None,
    )
    step = document["recovery"]["steps"][0]
    assert (step["step"], step["attempt"]) == ("fewer sequences", 1)


@pytest.mark.parametrize(("trouble_id", "last_words"), OOM_AFTER.items(), ids=OOM_AFTER)
def test_out_of_memory_is_fixed_at_every_stage(trouble_id: str, last_words: str, t4_log: Path):
    """The stage reached decides what was short of memory; no setting makes the weights smaller."""
    shutil.copytree(RUNS / "h100" / "reference-train3", "oom")
    lines = t4_log.read_text().split("\n")
    last = max(number for number, line in enumerate(lines) if last_words in line)
    Path("oom/load.log").write_text("\n".join([*lines[: last + 1], OOM]) + "\n")
    record = json.loads(Path("oom/run.json").read_text()) | {"outcome": "failed", "exit_code": 1}
    Path("oom/run.json").write_text(json.dumps(record))
    wanted = {"oom-weights": None, "oom-profile": "profile"}.get(trouble_id, "peak")
    assert short_of(judge_folder(Path("oom"))) == wanted


@pytest.mark.parametrize("outcome", ["interrupted", "killed"])
def test_an_interruption_or_kill_ends_recovery(outcome: str, t4_log: Path):
    """Ctrl-C or a kill by the system ends the recovery, even after a trouble of memory in the log."""
    shutil.copytree(RUNS / "h100" / "reference-train3", "ended")
    text = t4_log.read_text()
    Path("ended/load.log").write_text(text[: text.index("# CUDA blocks")] + "\n" + OOM + "\n")
    record = json.loads(Path("ended/run.json").read_text())
    for each, short in ((outcome, None), ("failed", "peak")):
        Path("ended/run.json").write_text(json.dumps(record | {"outcome": each, "exit_code": 1}))
        assert short_of(judge_folder(Path("ended"))) == short


def test_attempts_are_bounded(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """If predictions never hold, recovery ends after at most four loads."""
    monkeypatch.setenv("FAKE_SPIKE_BYTES", str(20 * GIB))
    code, document, _ = _load(capsys, "--recover")
    assert (code, document["verdict"], document["recovery"]["passed"]) == (1, "fail", False)
    assert len(document["recovery"]["attempts"]) == 4
    assert not document["recovery"]["passed"]
    assert not list(Path().glob("*/recovered.toml"))


@pytest.mark.parametrize(
    "words",
    [
        "OSError: No space left on device",
        "safetensors_rust.SafetensorError: Error while deserializing header: MetadataIncompleteBuffer",
        "OverflowError: never seen",
        "No available memory for the cache blocks.\nOSError: No space left on device",  # memory, but not that alone
    ],
)
def test_a_failure_that_is_not_memory_ends_recovery(
    words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """A full disk, broken weights and unknown errors are not fixed by settings: one load, with its own exit code."""
    monkeypatch.setenv("FAKE_WORDS", words)
    code, document, _ = _load(capsys, "--recover")
    assert (code, len(document["recovery"]["attempts"]), document["recovery"]["steps"]) == (1, 1, [])
    assert "attempt 1 failed for something that other settings would not fix" in document["recovery"]["end"]


def test_an_unpredicted_load_has_no_ladder(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """A load without vLLM is run once, as given, whatever it fails with."""
    monkeypatch.setenv("FAKE_WORDS", "torch.OutOfMemoryError: CUDA out of memory. x")
    code, document, _ = _load(capsys, "--no-fast-inference", "--recover")
    assert (code, len(document["recovery"]["attempts"]), document["recovery"]["steps"]) == (1, 1, [])


def test_freed_memory_is_waited_for(monkeypatch: pytest.MonkeyPatch):
    """Memory that the driver frees late is waited for; memory that another process took is not."""
    before = GpuDevice("Tesla T4", "7.5", T4.total_bytes, T4.free_bytes, "12.4")
    full = dataclasses.replace(before, free_bytes=GIB)
    seen = iter([full, full, before])
    monkeypatch.setattr("loadcheck.preparing.SETTLE_POLL_S", 0.0)
    monkeypatch.setattr("loadcheck.preparing.read_gpu", lambda: next(seen))
    assert settled_gpu(before) == before
    monkeypatch.setattr("loadcheck.preparing.SETTLE_S", -1.0)
    monkeypatch.setattr("loadcheck.preparing.read_gpu", lambda: full)
    assert settled_gpu(before) == full


@pytest.mark.parametrize("exit_code", [2, 3])
def test_a_child_that_refuses_keeps_its_exit_code(
    exit_code: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """A child's exit code for bad input or an unsupported machine is kept, whatever else is in its log."""
    code = f"import sys; print('CUDA out of memory. x'); sys.exit({exit_code})"
    monkeypatch.setattr("loadcheck.running.child_command", lambda step, folder: [sys.executable, "-c", code])
    found, document, _ = _load(capsys, "--recover")
    assert (found, len(document["recovery"]["attempts"])) == (exit_code, 1)


def test_if_nothing_fits_nothing_is_loaded(capsys: pytest.CaptureFixture[str]):
    """The 16-bit model is too large for a T4: every step is listed, none is tried, exit 1."""
    code, document, _ = _load(capsys, "--load-in-16bit", "--weights", "synthetic", "--recover")
    assert (code, document["run"], document["outcome"], document["fits"]) == (1, None, "refused", False)
    assert len(document["recovery"]["steps"]) == 6
    assert not Path("run").exists()
    assert "no step of the ladder is predicted to fit" in document["recovery"]["end"]


def test_a_request_beyond_the_model_has_no_ladder(capsys: pytest.CaptureFixture[str]):
    """A problem that no memory solves is reported, and nothing is tried."""
    code, document, _ = _load(capsys, "--max-seq-length", "200000", "--recover")
    assert (code, document["recovery"]["steps"], document["recovery"]["attempts"]) == (1, [], [])
    assert "memory is not what is wrong: max_seq_length 200000" in document["recovery"]["end"]


def test_no_run_is_overwritten(capsys: pytest.CaptureFixture[str]):
    """A later attempt gets its own folder; an earlier run's folder is refused as usual."""
    write = ("--gpu-memory-utilization", "0.4", "--recover", "--force")
    _load(capsys, *write)
    assert cli.run(["load", PROFILE, "--run-dir", "run", *write]) == 2
    Path("run").rename("old")
    capsys.readouterr()
    _, document, _ = _load(capsys, *write)
    assert [each["run"] for each in document["recovery"]["attempts"]] == ["run", "run-attempt3"]


def test_a_folder_without_a_name_is_accepted(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    """`--run-dir .` is a folder like any other, and later attempts lie beside it."""
    here = tmp_path / "here"
    here.mkdir()
    os.chdir(here)
    write = ("--gpu-memory-utilization", "0.4", "--recover", "--force", "--run-dir", ".")
    _, document, _ = _load(capsys, *write)
    assert [each["run"] for each in document["recovery"]["attempts"]] == [".", str(tmp_path / "here-attempt2")]


def test_doctors_problems_refuse_a_recovery(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """doctor's problems refuse the load, except for those of memory, which recovery is about to fix."""

    def examine(check: str) -> Any:
        finding = Finding(check=check, level=Level.PROBLEM, what="x", why="y", remedy="z", cannot=check != "memory")
        return lambda machine, plan: Report(plan.profile.name, (finding,))

    monkeypatch.setattr("loadcheck.doctor.examine", examine("driver"))
    assert _load(capsys, "--recover")[0] == 3
    monkeypatch.setattr("loadcheck.doctor.examine", examine("memory"))
    assert _load(capsys, "--recover")[0] == 0


def test_bad_input_exits_2(capsys: pytest.CaptureFixture[str]):
    """An unknown profile and a wrong value exit 2 and load nothing."""
    assert cli.run(["load", "no-such-profile", "--recover"]) == 2
    assert cli.run(["load", PROFILE, "--max-lora-rank", "7", "--recover"]) == 2
    assert "there is no profile 'no-such-profile'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        ([], 0, "Nothing to recover:"),
        (["--max-seq-length", "128"], 0, " 1 fewer sequences: +40 tokens in a batch; fits; attempt 1"),
        (["--load-in-16bit", "--weights", "synthetic"], 1, "NOT RECOVERED no step of the ladder is predicted to fit"),
    ],
)
def test_the_printed_output_of_a_recovery(flags: list[str], code: int, words: str, capsys: pytest.CaptureFixture[str]):
    """Without --json the output says whether anything was wrong, the steps, and the result."""
    assert cli.run(["load", PROFILE, "--run-dir", "run", "--recover", *flags]) == code
    assert words in capsys.readouterr().out


@pytest.mark.parametrize("width", [60, 40])
def test_a_recovery_fits_a_narrow_terminal(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """At 60 and 40 columns: each step with its gain and result, the loads, the flags and the profile, without colour codes."""
    monkeypatch.setenv("COLUMNS", str(width))
    assert (
        cli.run(["load", PROFILE, "--run-dir", "run", "--gpu-memory-utilization", "0.4", "--recover", "--force"]) == 0
    )
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert max(map(len, out.splitlines())) <= width
    flat = " ".join(out.split())
    assert "1 fewer sequences: +0.00 GiB of KV cache by unsloth's estimate; lacks 0.12 GiB; skipped" in flat
    assert "2 another utilization: +0.12 GiB of KV cache by unsloth's estimate; fits; attempt 2" in flat
    assert "gpu_memory_utilization 0.4 → 0.43" in flat
    assert "attempt 1 failed, short of KV cache by unsloth's estimate; kept in run" in flat
    assert "flags: --gpu-memory-utilization 0.43 profile: run-attempt2/recovered.toml" in flat
    assert "not in log" in flat


def test_a_cut_length_is_no_pass(capsys: pytest.CaptureFixture[str]):
    """A load that succeeds because unsloth cuts 2048 to 256 is a finding, and the ladder restores the length."""
    code, document, _ = _load(
        capsys, "--gpu-memory-utilization", "0.42", "--max-seq-length", "2048", "--recover", "--force"
    )
    first = judge_folder(Path("run"))
    assert first.record.outcome == "completed"
    assert any("unsloth cut max_seq_length" in finding.why for finding in first.verdict.failures())
    assert (code, document["recovery"]["attempts"][0]["short"]) == (0, "kv_estimate")
    assert document["figures"]["max_model_len"] == 2048


def test_recovered_troubles_say_what_was_short():
    """env/troubles.toml marks as recovered the troubles that say what is short, and unsloth's own retry, whose cause is named beside it."""
    recovered = {trouble.id for trouble in load_troubles() if trouble.handling == "recovered"}
    assert recovered == {trouble.id for trouble in load_troubles() if trouble.short is not None} | {"retry"}
