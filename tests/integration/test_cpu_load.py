"""A real load on the CPU, end to end: SmolLM2 in 4-bit, adapters, an answer, training."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.conftest import ROOT

LOADCHECK = ROOT / ".venv" / "cpu" / "bin" / "loadcheck"

pytestmark = [
    pytest.mark.cpu,
    pytest.mark.xdist_group("real loads"),
    pytest.mark.skipif(not LOADCHECK.exists(), reason=".venv/cpu is not installed; `make test` installs it"),
]


def _start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [str(LOADCHECK), "load", "smollm2-135m-cpu", "--run-dir", str(folder), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, dict[str, Any], Path, str]:
    """A load with three training steps: its exit code, JSON, run folder and progress."""
    folder = tmp_path_factory.mktemp("cpu") / "run"
    process = _start(folder, "--train-steps", "3", "--json")
    out, err = process.communicate(timeout=1200)
    return process.returncode, json.loads(out), folder, err


def test_the_load_passes(trained: tuple[int, dict[str, Any], Path, str]):
    """Exit 0, verdict pass, and the stages on stderr; the report of the run folder ends in PASS."""
    code, data, folder, progress = trained
    assert (code, data["verdict"], data["outcome"]) == (0, "pass", "completed"), progress
    assert "loading the weights" in progress
    table = subprocess.run([str(LOADCHECK), "report", str(folder)], capture_output=True, text=True, check=True).stdout
    assert "PASS" in table


def test_the_answer_is_sensible(trained: tuple[int, dict[str, Any], Path, str]):
    """The capital of France is Paris."""
    answer = next(finding for finding in trained[1]["findings"] if finding["figure"] == "answer")
    assert "Paris" in answer["measured"]


def test_weights_and_adapters_to_the_byte(trained: tuple[int, dict[str, Any], Path, str]):
    """Measured and predicted bytes of weights and adapters are equal."""
    _, data, folder, _ = trained
    assert (data["figures"]["trainable_params"], data["figures"]["total_params"]) == (9_768_960, 144_283_968)
    log = (folder / "load.log").read_text()
    assert '"weights_bytes": 111692024' in log
    assert '"adapter_bytes": 39075840' in log


def test_training_lowers_the_loss(trained: tuple[int, dict[str, Any], Path, str]):
    """In real steps the loss falls, the adapters change, and the base does not."""
    statuses = {finding["figure"]: finding["status"] for finding in trained[1]["findings"] if finding["check"] == "run"}
    assert {statuses[name] for name in ("loss", "base weights", "adapter weights")} == {"ok"}


def test_the_run_folder_is_complete(trained: tuple[int, dict[str, Any], Path, str]):
    """run.json, the raw log, the samples and the verdict exist, and `check` of the folder agrees."""
    folder = trained[2]
    assert {path.name for path in folder.iterdir()} >= {"run.json", "load.log", "memory.jsonl", "verdict.json"}
    record = json.loads((folder / "run.json").read_text())
    assert (record["outcome"], record["exit_code"]) == ("completed", 0)
    assert len((folder / "memory.jsonl").read_text().splitlines()) > 10
    assert subprocess.run([LOADCHECK, "check", folder], capture_output=True, check=False).returncode == 0


@pytest.fixture
def running(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A load that is about to load its weights."""
    folder = tmp_path / "run"
    process = _start(folder)
    assert process.stdout is not None
    for line in process.stdout:
        if "loading the weights" in line:
            break
    yield process, folder
    if process.poll() is None:
        process.kill()
    process.communicate()


def _child(parent: subprocess.Popen[str]) -> psutil.Process:
    """The loading process; the guard that it forked has the same command line."""
    (child,) = psutil.Process(parent.pid).children()
    assert "loadcheck.engines.child" in child.cmdline()
    return child


def test_a_killed_child_is_recorded_in_the_run(running: tuple[subprocess.Popen[str], Path]):
    """kill -9 of the loading process: exit 1, and run.json names the signal."""
    process, folder = running
    _child(process).kill()
    process.communicate(timeout=300)
    record = json.loads((folder / "run.json").read_text())
    assert (process.returncode, record["outcome"]) == (1, "killed")
    assert "SIGKILL" in record["reason"]


def test_an_interrupt_ends_everything(running: tuple[subprocess.Popen[str], Path]):
    """Ctrl-C ends the child, and the run folder records it."""
    process, folder = running
    child = _child(process)
    process.send_signal(2)
    process.communicate(timeout=300)
    assert json.loads((folder / "run.json").read_text())["outcome"] == "interrupted"
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_a_killed_parent_takes_the_child_with_it(running: tuple[subprocess.Popen[str], Path]):
    """kill -9 of loadcheck itself leaves no loading process and no guard; the folder stays at "running", which is no pass."""
    process, folder = running
    child = _child(process)
    guard = min(child.children(), key=psutil.Process.create_time)
    process.kill()
    process.wait()
    child.wait(timeout=60)
    guard.wait(timeout=60)
    assert json.loads((folder / "run.json").read_text())["outcome"] == "running"
    assert subprocess.run([LOADCHECK, "check", folder], capture_output=True, check=False).returncode == 1


@pytest.mark.parametrize("flag", ["--load-in-4bit", "--load-in-16bit"])
def test_a_synthetic_checkpoint_loads_like_a_real_one(flag: str, tmp_path: Path):
    """The libraries read our safetensors file, tokenizer and chat template, and every figure is as predicted."""
    process = _start(tmp_path / "run", "--weights", "synthetic", flag, "--max-new-tokens", "2", "--json")
    out, err = process.communicate(timeout=1200)
    data = json.loads(out)
    compared = [finding for finding in data["findings"] if finding["check"] == "model"]
    assert data["outcome"] == "completed", err
    assert {finding["status"] for finding in compared} == {"ok"}
    assert {"weights_gib", "adapter_gib", "total_params"} <= {finding["figure"] for finding in compared}
