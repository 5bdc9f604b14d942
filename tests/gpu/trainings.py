"""Trainings of 8B on a GPU by `loadcheck train`, with synthetic weights: 20 steps of two rows, a checkpoint after the tenth."""

from __future__ import annotations

import json
import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from loadcheck.runs.steps import Step, read_steps
from tests.conftest import ROOT
from tests.gpu.kept import IS_KEPT, keep, keep_figures
from tests.gpu.test_gpu_load import PROFILE, PYTHON

MARKS = [
    pytest.mark.gpu,
    pytest.mark.xdist_group("real loads"),
    pytest.mark.skipif("not has_gpu()", reason="this machine has no usable NVIDIA GPU"),
    pytest.mark.skipif(not IS_KEPT, reason="takes minutes, and disk: scripts/gpu_tests.py runs it"),
]
"""The marks of a module that trains; it must import `has_gpu`, in whose words pytest evaluates the third."""

CHECKPOINT, KILLED_AFTER, STEPS = 10, 13, 20
SETTINGS = (
    PROFILE, "--weights", "synthetic", "--max-seq-length", "512", "--lora-r", "16", "--lora-alpha", "32",
    "--per-device-train-batch-size", "2", "--learning-rate", "1e-3",
)  # fmt: skip
"""The same as in the kept runs of tests/training."""
COMMAND = (PYTHON, "-m", "loadcheck")
LIMIT_S, EXPORT_S = 400, 300


@dataclass(frozen=True)
class Training:
    """A finished training: its exit code, the output of `loadcheck train --json`, its run folder."""

    exit_code: int
    output: dict[str, Any]
    folder: Path

    @property
    def steps(self) -> list[Step]:
        return read_steps(self.folder / "steps.jsonl")

    @property
    def failures(self) -> list[str]:
        return [f"{each['figure']}: {each['why']}" for each in self.output["findings"] if each["status"] == "fail"]


def environment() -> dict[str, str]:
    """Gigabytes of weights are made once for all sessions, on the checkout's disk, as /tmp may be in memory."""
    return {**os.environ, "LOADCHECK_CACHE": str(ROOT / "build" / "test-weights")}


def _start(*words: str) -> subprocess.Popen[str]:
    command = [*COMMAND, "train", *words, "--json"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())


def _fresh(folder: Path) -> tuple[str, ...]:
    data = str(ROOT / "examples" / "glossary.jsonl")
    return (*SETTINGS, "--data", data, "--max-steps", str(STEPS), "--save-steps", str(CHECKPOINT), "--run-dir", str(folder))  # fmt: skip


def _ended(process: subprocess.Popen[str], folder: Path, name: str) -> Training:
    out, err = process.communicate(timeout=LIMIT_S)
    keep(folder, name)
    assert out, err
    return Training(process.returncode, json.loads(out), folder)


def trained(folder: Path) -> Training:
    """A training that runs to its end."""
    return _ended(_start(*_fresh(folder)), folder, "train-whole")


def killed(folder: Path) -> int:
    """Kill the training's process with SIGKILL some steps after its checkpoint; returns the exit code."""
    process = _start(*_fresh(folder))
    deadline_s = time.monotonic() + LIMIT_S
    while len(read_steps(folder / "steps.jsonl")) < KILLED_AFTER:
        assert process.poll() is None and time.monotonic() < deadline_s, process.communicate(timeout=60)
        time.sleep(0.02)
    psutil.Process(process.pid).children()[0].kill()
    process.communicate(timeout=60)
    keep(folder, "train-killed")
    return process.returncode


def resumed(run: Path, folder: Path) -> Training:
    """A second training, resumed from the checkpoint of the first."""
    return _ended(_start("--resume", str(run), "--run-dir", str(folder)), folder, "train-resumed")


def exported(run: Path, folder: Path, name: str, *flags: str) -> Path:
    """Export a training into `folder`/`name`, proven; the figures of the proof are kept as `export-name.json`."""
    command = [*COMMAND, "export", str(run), name, *flags, "--json"]
    ended = subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True, check=False, timeout=EXPORT_S
    )
    assert ended.stdout, ended.stderr
    output = json.loads(ended.stdout)
    keep_figures(f"export-{name}", output)
    assert (ended.returncode, output["verdict"]) == (0, "pass"), output["findings"]
    return folder / name
