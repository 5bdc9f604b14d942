"""Loads on a real GPU with synthetic weights, started as a user starts them. `make test` runs these if there is a GPU. 20 to 60 s each."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import pytest

from loadcheck.device import read_gpu
from loadcheck.figures import Kind, figure_specs
from loadcheck.logs.event import EventT
from loadcheck.logs.events import Answered, AnsweredAfterTraining, Attached, Imported, SavedAdapter, Trained
from loadcheck.stacks import parse_log
from loadcheck.stacks.unsloth_vllm import startup
from loadcheck.units import GIB
from tests.conftest import ROOT
from tests.gpu.kept import keep, name_of

VENV = ROOT / ".venv" / "gpu" / "bin" / "python"
PYTHON = str(VENV) if VENV.exists() else sys.executable  # the image has one Python
PROFILE = "llama31-8b-instruct-4bit"
TIMES = {spec.attribute for spec in figure_specs().values() if spec.kind is Kind.SECONDS}


@cache
def has_gpu() -> bool:
    return read_gpu() is not None


pytestmark = [
    pytest.mark.gpu,
    pytest.mark.xdist_group("real loads"),
    pytest.mark.skipif("not has_gpu()", reason="this machine has no usable NVIDIA GPU"),
]


@dataclass(frozen=True)
class Load:
    """A finished load: the output of `loadcheck load --json`, and its run folder."""

    exit_code: int
    output: dict[str, Any]
    folder: Path

    def last(self, kind: type[EventT]) -> EventT:
        """The last event of this kind."""
        event = parse_log(self.folder / "load.log").last.last(kind)
        assert event is not None, kind
        return event

    def figures(self) -> dict[str, Any]:
        """All figures except times."""
        known = parse_log(self.folder / "load.log").attempts[-1].figures.known()
        return {name: value for name, value in known.items() if name not in TIMES}

    def failures(self) -> list[str]:
        return [f"{each['figure']}: {each['why']}" for each in self.output["findings"] if each["status"] != "ok"]


def start(folder: Path, *flags: str, **environment: str) -> subprocess.Popen[str]:
    command = [PYTHON, "-m", "loadcheck", "load", PROFILE, "--weights", "synthetic", "--run-dir", str(folder), "--json"]
    # Gigabytes of weights are made once for all sessions, on the checkout's disk, as /tmp may be in memory.
    env = {**os.environ, "LOADCHECK_CACHE": str(ROOT / "build" / "test-weights"), **environment}
    return subprocess.Popen([*command, *flags], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)


def free_bytes() -> int:
    device = read_gpu()
    assert device is not None
    return device.free_bytes


Loader = Callable[..., Load]


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Loader:
    """Load with these flags."""

    def run(*flags: str, **environment: str) -> Load:
        folder = tmp_path_factory.mktemp("gpu") / "run"
        process = start(folder, *flags, **environment)
        out, err = process.communicate(timeout=600)
        measures = [
            environment[name] for name in (startup.ENABLE_VARIABLE, startup.DISABLE_VARIABLE) if name in environment
        ]
        keep(folder, f"load-{name_of((*flags, *measures))}")
        assert out, err
        return Load(process.returncode, json.loads(out), folder)

    return run


@pytest.fixture(scope="module")
def trained(load: Loader) -> Load:
    """The reference settings, and three training steps."""
    return load("--train-steps", "3")


def test_the_reference_passes(trained: Load):
    """Every figure is in range: exit code 0."""
    assert (trained.exit_code, trained.output["verdict"]) == (0, "pass"), trained.failures()


def test_adapters_are_used_trained_saved_and_read_back(trained: Load):
    """The answers use the adapters; training changes them but not the base; the saved adapters equal those in memory."""
    answer, steps = trained.last(Answered), trained.last(Trained)
    assert answer.adapter_enabled is True
    assert (steps.last_loss or 0) < (steps.first_loss or 0)
    assert steps.adapter_changed is True and steps.base_unchanged is True
    assert trained.last(AnsweredAfterTraining).token_ids_sha256 != answer.token_ids_sha256
    assert trained.last(SavedAdapter).same_weights is True


def test_plain_start_has_the_same_figures_adapters_and_tokens(load: Loader, trained: Load):
    """A run without the start measures gives the same figures, initial adapter weights and greedy tokens."""
    plain = load("--train-steps", "3", **{startup.DISABLE_VARIABLE: "all"})
    mine, theirs = trained.figures(), plain.figures()
    # The peak counts the driver's own memory, which differed by 2 MiB of 50 GiB (H100, 2026-11-24).
    assert theirs.pop("peak_device_bytes") == pytest.approx(mine.pop("peak_device_bytes"), abs=8 * 2**20)
    assert theirs == mine
    assert plain.last(Attached).adapter_sha256 == trained.last(Attached).adapter_sha256
    assert plain.last(Answered).token_ids_sha256 == trained.last(Answered).token_ids_sha256


@pytest.fixture(scope="module")
def usual(load: Loader) -> Load:
    """The reference settings, without training."""
    return load()


def assert_same_load(usual: Load, faster: Load) -> None:
    """The load passes, and has the usual figures, adapters and tokens."""
    mine, theirs = usual.figures(), faster.figures()
    assert theirs.pop("peak_device_bytes") == pytest.approx(mine.pop("peak_device_bytes"), abs=8 * 2**20)
    assert theirs == mine
    assert (faster.exit_code, faster.output["verdict"]) == (0, "pass"), faster.failures()
    assert faster.last(Attached).adapter_sha256 == usual.last(Attached).adapter_sha256
    assert faster.last(Answered).token_ids_sha256 == usual.last(Answered).token_ids_sha256


def test_importing_ahead_changes_no_figure_adapter_or_token(load: Loader, usual: Load):
    """A load that imports before its plan is known spends less time waiting for imports."""
    later = load(**{startup.DISABLE_VARIABLE: "ahead"})
    assert_same_load(usual, later)
    assert usual.last(Imported).import_s < later.last(Imported).import_s


def test_all_opt_in_measures_change_no_figure_adapter_or_token(load: Loader, usual: Load, tmp_path: Path):
    """The Triton cache starts empty, so the kernels that run were compiled during the imports (the marker shows that all were)."""
    cache = tmp_path / "triton"
    every = load(**{startup.ENABLE_VARIABLE: ",".join(startup.OPT_IN), "TRITON_CACHE_DIR": str(cache)})
    assert_same_load(usual, every)
    assert list(cache.glob("loadcheck-*"))


@pytest.mark.parametrize(
    "flags",
    [
        ("--conservativeness", "0.071"),
        ("--model", "qwen2.5-1.5b-instruct", "--load-in-16bit", "--max-seq-length", "1024"),
        ("--model", "smollm2-135m-instruct", "--lora-r", "8", "--max-lora-rank", "8"),
    ],
    ids=["few-sequences", "qwen2-16bit", "tied-rank-8"],
)
def test_other_settings_pass(load: Loader, flags: tuple[str, ...]):
    """Few sequences, a 16-bit model and one with tied embeddings pass like the reference."""
    found = load(*flags)
    assert (found.exit_code, found.output["verdict"]) == (0, "pass"), found.failures()


def test_a_kv_cache_that_does_not_fit_is_named(load: Loader):
    """A budget of 5 GiB is too small for the weights: the load is refused, and diagnosed if it is forced."""
    flags = ("--gpu-memory-utilization", f"{5 * GIB / free_bytes():.4f}")
    refused = load(*flags)
    assert (refused.exit_code, refused.output["outcome"]) == (1, "refused")
    forced = load(*flags, "--force")
    assert (forced.exit_code, forced.output["outcome"]) == (1, "failed")
    assert "kv-too-small" in {finding["measured"] for finding in forced.output["findings"]}


@dataclass(frozen=True)
class Running:
    """A load that has its weights on the GPU and is about to profile."""

    process: subprocess.Popen[str]
    folder: Path
    free_before_bytes: int

    def started(self) -> list[psutil.Process]:
        """All descendants of loadcheck's process."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def assert_gone(self, started: list[psutil.Process]) -> None:
        """None of them runs after a minute, and the GPU's memory is free again."""
        _, left = psutil.wait_procs(started, timeout=60)
        assert not [process for process in left if process.status() != psutil.STATUS_ZOMBIE]
        assert free_bytes() > self.free_before_bytes - GIB // 8


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    free_before_bytes = free_bytes()
    folder = tmp_path / "run"
    log = folder / "load.log"
    with start(folder, STAND_IN_WEIGHTS_S="60") as process:  # in a rehearsal it stays there
        try:
            deadline_s = time.monotonic() + 300
            while not (log.exists() and "model weights took" in log.read_text(errors="replace")):
                assert process.poll() is None and time.monotonic() < deadline_s
                time.sleep(0.05)
            yield Running(process, folder, free_before_bytes)
        finally:
            process.kill()


def test_a_killed_load_keeps_what_it_had_measured(running: Running):
    """The loading process is killed: the outcome says so, the weights are reported, and nothing is left on the GPU."""
    started = running.started()
    for process in started:
        if "loadcheck.engines.child" in process.cmdline():
            process.send_signal(signal.SIGKILL)
    out, _ = running.process.communicate(timeout=60)
    output = json.loads(out)
    assert (running.process.returncode, output["outcome"]) == (1, "killed")
    assert output["figures"]["weights_gib"] == pytest.approx(5.3541)
    running.assert_gone(started)


def test_an_interrupted_load_ends_in_order(running: Running):
    """Ctrl-C: the outcome is "interrupted", the weights are reported, and nothing is left on the GPU."""
    started = running.started()
    running.process.send_signal(signal.SIGINT)
    out, _ = running.process.communicate(timeout=60)
    output = json.loads(out)
    assert (running.process.returncode, output["outcome"]) == (1, "interrupted")
    assert output["figures"]["weights_gib"] == pytest.approx(5.3541)
    running.assert_gone(started)


def test_a_load_does_not_outlive_loadcheck(running: Running):
    """loadcheck itself is killed: the loading process ends with it, and nothing is left on the GPU."""
    started = running.started()
    assert any("loadcheck.engines.child" in process.cmdline() for process in started)
    running.process.kill()
    running.assert_gone(started)
