"""Two kept trainings of Llama 3.1 8B on an H200: one that was killed and resumed, and one with packed rows.

NVIDIA H200, driver 580.159.04, 2026-11-29, commit 1a506e1, synthetic weights (run.json names the commit of the machine's own git folder).
The first was killed (-9) after step 13 of 20, and resumed from the checkpoint of step 10.
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
