"""Two trainings of Llama 3.1 8B on an H200 as they were kept: one that was killed and resumed, and one of packed rows.

NVIDIA H200, driver 580.159.04, 2026-11-29, commit 1a506e1, synthetic weights (run.json names the commit of the machine's own git folder). The first was
ended by -9 after step 13 of 20 and went on from the checkpoint of step 10.
"""

from pathlib import Path

import pytest

from loadcheck.runs.steps import read_steps
from loadcheck.training import judge_training_folder
from loadcheck.units import MIB

FOLDER = Path(__file__).parent / "training"


@pytest.mark.parametrize("name", ["h200-resumed", "h200-packed"])
def test_a_training_on_a_gpu_passes(name: str):
    """Every figure is in its range, and the loss of the longer one falls."""
    trained = judge_training_folder(FOLDER / name)
    assert trained.verdict.passed, [finding.why for finding in trained.verdict.failures()]
    assert trained.exit_code == 0


def test_a_resumed_training_has_the_losses_of_one_that_was_not_ended():
    """To the last digit that was written, in all 20 steps (the other: commit e428a97, the same adapters by their SHA-256)."""
    resumed = read_steps(FOLDER / "h200-resumed" / "steps.jsonl")
    whole = read_steps(FOLDER / "h200-uninterrupted.steps.jsonl")
    assert [step.loss for step in resumed] == [step.loss for step in whole]
    assert len(whole) == 20


def test_a_resumed_training_takes_no_more_than_a_mebibyte_more_of_torch():
    """894 KiB: read from a checkpoint, each state had its own two maps (stacks/trainer.py: share_quantization_maps, made after this run)."""
    resumed = read_steps(FOLDER / "h200-resumed" / "steps.jsonl")
    whole = read_steps(FOLDER / "h200-uninterrupted.steps.jsonl")
    for mine, theirs in zip(resumed, whole, strict=True):
        assert mine.peak_allocated_bytes is not None and theirs.peak_allocated_bytes is not None
        assert 0 <= mine.peak_allocated_bytes - theirs.peak_allocated_bytes < MIB
