"""Predicted memory of training against what was measured on an H100, to the byte."""

import csv
from pathlib import Path
from typing import Any

import pytest

from loadcheck.predict import Prediction
from loadcheck.predict.card import described_card
from loadcheck.specs.model import resolve_model
from loadcheck.specs.profile import load_profile
from loadcheck.workloads.prediction import TrainMemory, train_memory
from loadcheck.workloads.settings import TrainSettings
from tests.cases import predict

RAM_BYTES = 133_427_548_160  # of the machine that was measured on

with (Path(__file__).parent / "training" / "truth.tsv").open(encoding="utf-8") as file:
    ROWS = list(csv.DictReader(file, delimiter="\t"))

# What is measured beyond what is predicted, by row; every other row is equal to the byte. In both, the sizes of the logits say that
# the longest completion was of 198 tokens, not 200: completions are sampled, and end where the model ends them. 3,584 bytes more are
# alive in the reference's pass than are accounted for: as many as the seven tensors of vLLM's sampler for one batch.
LONGEST_COMPLETION = {("256", "200"): 198}
UNKNOWN_BYTES = {("grpo", "6"): 3_584, ("grpo", "8"): 3_584}


def name(row: dict[str, str]) -> str:
    shape = [f"{key}{row[key]}" for key in ("B", "T", "A", "P", "C", "G") if row[key]]
    return "-".join([row["kind"], *shape, row["optim"], row["gradient_checkpointing"]])


def predicted(row: dict[str, str]) -> TrainMemory:
    fast = row["fast_inference"] == "True"
    checkpointing: Any = {"True": True, "False": False}.get(row["gradient_checkpointing"], "unsloth")
    overrides = {
        "weights": "synthetic",
        "max_seq_length": int(row["max_seq_length"]),
        "adapters.r": int(row["r"]),
        "adapters.use_gradient_checkpointing": checkpointing,
        "fast_inference": fast,
    }
    profile = load_profile("llama31-8b-instruct-4bit", overrides)
    _, config = resolve_model(profile.model, profile.load_in_4bit)
    card = described_card("H100", int(row["total"]), int(row["free_before"]), None, None)
    engine: Prediction | None = predict(config, profile, card, RAM_BYTES) if fast else None
    return train_memory(config, profile, settings(row), card, engine)


def settings(row: dict[str, str]) -> TrainSettings:
    given: dict[str, Any] = {
        "method": row["kind"],
        "per_device_train_batch_size": int(row["B"]),
        "gradient_accumulation_steps": int(row["A"]),
        "optim": row["optim"],
    }
    if row["kind"] == "sft":
        return TrainSettings(**given, train_seq_length=int(row["T"]))
    return TrainSettings(
        **given,
        num_generations=int(row["G"]),
        max_prompt_length=int(row["P"]),
        max_completion_length=LONGEST_COMPLETION.get((row["P"], row["C"]), int(row["C"])),
    )


TRAININGS = [row for row in ROWS if row["kind"] != "busy"]


@pytest.mark.parametrize("row", TRAININGS, ids=name)
def test_peak_of_torchs_allocator_is_the_measured_one(row: dict[str, str]) -> None:
    """The peak is equal to the byte, or short by what is stated as unknown."""
    memory = predicted(row)
    # An earlier training of the same process has left what the first forward and backward pass make for good.
    left = int(row["before_alloc"]) - memory.before.num_bytes
    peak = max(memory.check.num_bytes + left, memory.first_step.num_bytes, memory.later_step.num_bytes)
    assert int(row["peak_alloc"]) - peak == UNKNOWN_BYTES.get((row["kind"], row["G"]), 0)


@pytest.mark.parametrize("row", [row for row in TRAININGS if row["first_in_process"] == "yes"], ids=name)
def test_what_is_held_before_the_trainer_is_the_measured_one(row: dict[str, str]) -> None:
    """With vLLM in the card and without it, equal to the byte."""
    assert predicted(row).before.num_bytes == int(row["before_alloc"])


@pytest.mark.parametrize("row", TRAININGS, ids=name)
def test_terms_sum(row: dict[str, str]) -> None:
    """Every tree of terms sums to its root, and nothing is left on the ledger that was freed twice."""
    memory = predicted(row)
    for tree in (memory.before, memory.check, memory.first_step, memory.later_step):
        for _, term in tree.walk():
            assert not term.parts or term.num_bytes == sum(part.num_bytes for part in term.parts)
            assert term.num_bytes > 0
