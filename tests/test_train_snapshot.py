"""The blocks that torch's allocator held at a training's peak, against the tensors that the prediction follows.

`torch.cuda.memory._record_memory_history` in `loadcheck train` on an H200 (driver 580.159.04, 2026-11-29, commits e428a97 and 1a506e1,
synthetic weights, three steps). Each row of a file is a requested size, how many blocks of it were held at the largest moment of the steps,
and the line that allocated them, or "loaded" for blocks from before the trainer.
"""

import csv
from collections import Counter
from dataclasses import dataclass

import pytest

from loadcheck.predict import Case
from loadcheck.predict.card import described_card
from loadcheck.specs.model import resolve_model
from loadcheck.specs.profile import load_profile
from loadcheck.specs.training import TrainSettings
from loadcheck.stacks.unsloth_vllm import STACK
from loadcheck.stacks.unsloth_vllm.allocator import rounded
from loadcheck.stacks.unsloth_vllm.training_memory.ledger import Event
from loadcheck.stacks.unsloth_vllm.training_memory.prediction import TrainMemory, train_memory
from loadcheck.units import GIB
from tests.cases import case_of
from tests.conftest import ROOT

pytestmark = pytest.mark.xdist_group("training")
FOLDER = ROOT / "tests" / "training" / "snapshots"
H200 = described_card("H200", 150_109_880_320, 149_557_477_376, None, None)
SFT = {"adapters.r": 16, "max_lora_rank": 16, "fast_inference": False}
SETTINGS = {
    "llama-3.2-1b-2x512-no-checkpointing": (
        {**SFT, "model": "llama-3.2-1b-instruct", "max_seq_length": 512, "adapters.use_gradient_checkpointing": False},
        TrainSettings(method="sft", per_device_train_batch_size=2, train_seq_length=512),
    ),
    "llama-3.1-8b-2x512": (
        {**SFT, "model": "llama-3.1-8b-instruct", "max_seq_length": 512},
        TrainSettings(method="sft", per_device_train_batch_size=2, train_seq_length=512),
    ),
    "qwen2.5-3b-4x1024": (
        {**SFT, "model": "qwen2.5-3b-instruct", "max_seq_length": 1024},
        TrainSettings(method="sft", per_device_train_batch_size=4, train_seq_length=1024),
    ),
}


@dataclass(frozen=True)
class Measured:
    """Number of blocks by size: all, and those allocated during the training."""

    held: Counter[int]
    made: Counter[int]


def measured(name: str) -> Measured:
    held, made = Counter[int](), Counter[int]()
    with (FOLDER / f"{name}.tsv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            size, number = rounded(int(row["requested_bytes"])), int(row["num_blocks"])
            held[size] += number
            if row["made_at"] != "loaded":
                made[size] += number
    return Measured(held, made)


def predicted(name: str) -> TrainMemory:
    overrides, settings = SETTINGS[name]
    profile = load_profile("llama31-8b-instruct-4bit", {"weights": "synthetic", **overrides})
    case: Case = case_of(resolve_model(profile.model, profile.load_in_4bit)[1], profile, H200, 128 * GIB)
    return train_memory(case, settings, STACK.predict(case) if profile.fast_inference else None)


def alive_at_peak(events: list[Event]) -> Counter[int]:
    """The sizes of the blocks held at the largest moment."""
    total = largest = 0
    held: dict[int, int] = {}
    alive: dict[int, int] = {}
    for event in events:
        total += event.num_bytes
        if event.num_bytes > 0:
            held[event.number] = event.num_bytes
        else:
            del held[event.number]
        if total > largest:
            largest, alive = total, dict(held)
    return Counter(alive.values())


@pytest.mark.parametrize("name", SETTINGS)
def test_every_block_at_the_peak_is_predicted(name: str):
    """Each predicted tensor is a block of its size, and each block allocated in training is predicted; the rest is the loaded model."""
    found, memory = measured(name), predicted(name)
    followed = alive_at_peak(memory.ledger.events)
    assert not followed - found.held
    assert not found.made - followed
    rest = found.held - followed
    assert sum(size * number for size, number in rest.items()) == memory.loaded.num_bytes
