"""Two kept trainings of Llama 3.1 8B on an H200: one that was killed and resumed, and one with packed rows.

NVIDIA H200, driver 580.159.04, 2026-11-29, commit 1a506e1, synthetic weights (run.json names the commit of the machine's own git folder).
The first was killed (-9) after step 13 of 20, and resumed from the checkpoint of step 10.
"""

import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from msgspec import structs

from loadcheck.runs.steps import read_steps
from loadcheck.specs.files import changed
from loadcheck.training import judge_training_folder
from loadcheck.units import MIB
from loadcheck.verdict.training import judge_training
from loadcheck.verdict.training.evidence import TrainEvidence

FOLDER = Path(__file__).parent / "training"
SHORT = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."


@pytest.mark.parametrize("name", ["h200-resumed", "h200-packed"])
def test_a_training_on_a_gpu_passes(name: str):
    """Every figure is in its range, and the loss of the longer one falls."""
    trained = judge_training_folder(FOLDER / name)
    assert trained.verdict.passed, [finding.why for finding in trained.verdict.failures()]
    assert trained.exit_code == 0


def test_a_training_is_checked_as_a_load_is(tmp_path: Path):
    """The bytes of the adapters, the card and known troubles are judged in a training, too."""
    shutil.copytree(FOLDER / "h200-packed", tmp_path / "run")
    log = (tmp_path / "run" / "load.log").read_text()
    for old, new in (
        ('"adapter_bytes": ', '"adapter_bytes": 1'),
        ('"gpu_name": "NVIDIA H200"', '"gpu_name": "NVIDIA H100 80GB HBM3"'),
        ('"device_total_bytes": 1', '"device_total_bytes": 2'),
        ('loadcheck: {"event": "train_begin"', f'{SHORT}\nloadcheck: {{"event": "train_begin"'),
    ):
        assert old in log
        log = log.replace(old, new, 1)
    (tmp_path / "run" / "load.log").write_text(log)
    failures = judge_training_folder(tmp_path / "run").verdict.failures()
    names = {name for each in failures for name in (each.figure, each.trouble)}
    assert {"adapter bytes", "gpu_name", "device", "oom-training"} <= names


@cache
def packed_training() -> TrainEvidence:
    training = judge_training_folder(FOLDER / "h200-packed").found
    assert training is not None
    return training


@pytest.mark.parametrize(
    ("rewards", "status", "words"),
    [
        (
            (0.5, 0.25, 1.5),
            "ok",
            "3 of 3 steps have a mean reward that is a number, 0.500 in the first and 1.500 in the last",
        ),
        ((0.5, None, 1.5), "fail", "2 of 3 steps have a mean reward that is a number, 0.500 in the first"),
        ((None, None, None), "fail", "0 of 3 steps have a mean reward that is a number"),
    ],
)
def test_each_reward_of_grpo_is_a_number(rewards: tuple[float | None, ...], status: str, words: str):
    """A step of GRPO without a reward fails by its name; that the loss falls is not asked for."""
    training = packed_training()
    steps = [structs.replace(step, reward=reward) for step, reward in zip(training.steps, rewards, strict=True)]
    job = changed(training.job, {"settings.method": "grpo", "settings.packing": False})
    verdict = judge_training(replace(training, job=job, steps=steps, peaks=None))
    (finding,) = [each for each in verdict.findings if each.figure == "rewards"]
    assert (finding.status.value, words in finding.why) == (status, True)
    assert "loss" not in {each.figure for each in verdict.findings}


def test_a_resumed_training_has_the_losses_of_an_uninterrupted_one():
    """All 20 losses equal, to the last written digit, those of an uninterrupted run (commit e428a97, adapters with the same SHA-256)."""
    resumed = read_steps(FOLDER / "h200-resumed" / "steps.jsonl")
    whole = read_steps(FOLDER / "h200-uninterrupted.steps.jsonl")
    assert [step.loss for step in resumed] == [step.loss for step in whole]
    assert len(whole) == 20


def test_a_resumed_training_needs_at_most_a_mebibyte_more():
    """894 KiB more: each state read from the checkpoint had its own two maps (stacks/monitored_trainer.py: share_quantization_maps, added after this run)."""
    resumed = read_steps(FOLDER / "h200-resumed" / "steps.jsonl")
    whole = read_steps(FOLDER / "h200-uninterrupted.steps.jsonl")
    for mine, theirs in zip(resumed, whole, strict=True):
        assert mine.peak_allocated_bytes is not None and theirs.peak_allocated_bytes is not None
        assert 0 <= mine.peak_allocated_bytes - theirs.peak_allocated_bytes < MIB
