"""Predicted memory of training against measurements on an H100, to the byte."""

import csv
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from loadcheck.predict import Case, Prediction
from loadcheck.predict.card import card_from_device, described_card
from loadcheck.specs.model import resolve_model
from loadcheck.specs.profile import Profile, load_profile
from loadcheck.specs.training import TrainSettings
from loadcheck.stacks.unsloth_vllm import STACK as UNSLOTH_VLLM
from loadcheck.stacks.unsloth_vllm.training_memory.device import device_peak
from loadcheck.stacks.unsloth_vllm.training_memory.prediction import TrainMemory, train_memory
from loadcheck.units import GIB
from tests.cases import case_of

pytestmark = pytest.mark.xdist_group("training")  # one process: each row is predicted once
RAM_BYTES = 133_427_548_160  # of the machine of the measurements

with (Path(__file__).parents[1] / "training" / "truth.tsv").open(encoding="utf-8") as file:
    ROWS = list(csv.DictReader(file, delimiter="\t"))

# Measured minus predicted, by row; every other row is equal to the byte. In both rows the sizes of the logits show that the longest completion had
# 198 tokens, not 200: completions are sampled, and end where the model ends them. In the reference's pass 3,584 bytes more are alive than accounted
# for: as many as the seven tensors of vLLM's sampler for one batch.
LONGEST_COMPLETION = {("256", "200"): 198}
UNKNOWN_BYTES = {("grpo", "6"): 3_584, ("grpo", "8"): 3_584}


def name(row: dict[str, str]) -> str:
    shape = [f"{key}{row[key]}" for key in ("B", "T", "A", "P", "C", "G") if row[key]]
    return "-".join([row["kind"], *shape, row["optim"], row["gradient_checkpointing"]])


def profile_of(row: dict[str, str]) -> Profile:
    checkpointing: Any = {"True": True, "False": False}.get(row["gradient_checkpointing"], "unsloth")
    overrides = {
        "weights": "synthetic",
        "max_seq_length": int(row["max_seq_length"]),
        "adapters.r": int(row["r"]),
        "adapters.use_gradient_checkpointing": checkpointing,
        "fast_inference": row["fast_inference"] == "True",
    }
    return load_profile("llama31-8b-instruct-4bit", overrides)


def case_of_row(row: dict[str, str]) -> Case:
    profile = profile_of(row)
    _, config = resolve_model(profile.model, profile.load_in_4bit)
    card = described_card("H100", int(row["total"]), int(row["free_before"]), None, None)
    return case_of(config, profile, card, RAM_BYTES)


def engine(row: dict[str, str]) -> Prediction | None:
    """The load with the engine, if the row has one."""
    return UNSLOTH_VLLM.predict(case_of_row(row)) if row["fast_inference"] == "True" else None


@cache
def _predicted(number: int) -> TrainMemory:
    row = ROWS[number]
    return train_memory(case_of_row(row), settings(row), engine(row))


def predicted(row: dict[str, str]) -> TrainMemory:
    return _predicted(ROWS.index(row))


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
def test_peak_of_torchs_allocator_equals_the_measured_one(row: dict[str, str]) -> None:
    """The peak equals the measured one to the byte, or is short by the stated unknown."""
    memory = predicted(row)
    # An earlier training in the same process leaves what the first forward and backward pass allocate for good.
    left = int(row["before_alloc"]) - memory.before.num_bytes
    peak = max(memory.check.num_bytes + left, memory.first_step.num_bytes, memory.later_step.num_bytes)
    assert int(row["peak_alloc"]) - peak == UNKNOWN_BYTES.get((row["kind"], row["G"]), 0)


@pytest.mark.parametrize("row", [row for row in TRAININGS if row["first_in_process"] == "yes"], ids=name)
def test_memory_before_the_trainer_equals_the_measured_one(row: dict[str, str]) -> None:
    """The memory before the trainer equals the measured one to the byte, with vLLM on the card and without."""
    assert predicted(row).before.num_bytes == int(row["before_alloc"])


@pytest.mark.parametrize("row", TRAININGS, ids=name)
def test_terms_sum(row: dict[str, str]) -> None:
    """Each tree of terms sums to its root, and no block is freed twice."""
    memory = predicted(row)
    for tree in (memory.before, memory.check, memory.first_step, memory.later_step):
        for _, term in tree.walk():
            assert not term.parts or term.num_bytes == sum(part.num_bytes for part in term.parts)
            assert term.num_bytes > 0


@pytest.mark.parametrize("row", [row for row in TRAININGS if row["first_in_process"] == "yes"], ids=name)
def test_peak_of_the_card_is_near_the_measured_one(row: dict[str, str]) -> None:
    """In its own process the card's peak is within 0.25 %, with checkpointing and without."""
    device = device_peak(case_of_row(row), settings(row), engine(row), predicted(row)).num_bytes
    assert device == pytest.approx(int(row["device_used"]), rel=0.0025)


@pytest.mark.parametrize("row", [row for row in TRAININGS if row["B"] != "1" or row["T"] != "512"], ids=name)
def test_reserve_is_near_the_measured_one(row: dict[str, str]) -> None:
    """The memory that torch reserves is within 0.5 %.

    The one row whose peak is before the first step is left out: earlier trainings in its process left gaps.
    """
    device = device_peak(case_of_row(row), settings(row), engine(row), predicted(row))
    reserved = sum(part.num_bytes for part in device.parts if part.name.startswith("torch's allocator"))
    assert reserved == pytest.approx(int(row["peak_reserved"]), rel=0.005)


@pytest.mark.parametrize(
    "row", [row for row in ROWS if row["kind"] == "busy"], ids=lambda row: f"p{row['p']}-g{row['g']}"
)
def test_a_full_batch_is_drawn_without_a_sort(row: dict[str, str]) -> None:
    """226 answers at once on an H100: torch's peak within 1.9 MB, the card's within 0.06 %."""
    profile = load_profile("llama31-8b-instruct-4bit", {"max_seq_length": 512, "gpu_memory_utilization": 0.6})
    name, config = resolve_model(profile.model, True)
    total, free = int(row["total"]), int(row["free_before"])
    card = card_from_device("NVIDIA H100 80GB HBM3", "9.0", total, free)
    case = Case(model_name=name, config=config, profile=profile, card=card, ram_available_bytes=100 * GIB)
    prediction = UNSLOTH_VLLM.predict(case)
    assert prediction.figures.max_num_seqs == int(row["n"])
    batch, taken = prediction.memory.full_batch.parts[-1], int(row["peak_alloc"]) - int(row["before_alloc"])
    assert 0 < taken - batch.num_bytes < 1_900_000
    assert prediction.memory.full_batch.num_bytes == pytest.approx(int(row["device_used"]), rel=0.0006)
    assert prediction.to_json()["busy_peak_gib"] == pytest.approx(48.82, abs=0.03)
