"""The pytest plugin of a rehearsal: what the simulated machine cannot do, the small model does on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

CPU = Path(__file__).resolve().parents[3] / ".venv" / "cpu" / "bin" / "python"
SETTINGS = ("smollm2-135m-cpu", "--lora-r", "8", "--learning-rate", "1e-3")


def pytest_collection_finish() -> None:
    """Train SmolLM2 on the CPU; a step's number of tokens replaces its peak."""
    from loadcheck.runs.steps import read_steps
    from tests.gpu import trainings

    ended = trainings._ended

    def read(path: Path) -> list[Any]:
        return [msgspec.structs.replace(step, peak_allocated_bytes=step.num_tokens) for step in read_steps(path)]

    def end(*arguments: Any) -> Any:
        found = ended(*arguments)
        found.output["bytes"]["train_peak_allocated_bytes"] = 0
        return found

    changes = {
        "COMMAND": (str(CPU), "-m", "loadcheck"),
        "SETTINGS": SETTINGS,
        "CHECKPOINT": 2,
        "KILLED_AFTER": 3,
        "STEPS": 5,
    }
    for name, value in {**changes, "read_steps": read, "_ended": end}.items():
        setattr(trainings, name, value)
