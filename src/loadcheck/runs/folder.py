"""The run folder: run.json (what was asked for and how it ended), load.log (raw), memory.jsonl (samples), verdict.json."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec

from loadcheck.errors import BadInput, Problem
from loadcheck.runs.json_file import json_of, write_json
from loadcheck.runs.record import SCHEMA, Machine, RunRecord

RESERVE = ".reserve"
FILES = (
    "run.json",
    "plan.json",
    "train.json",
    "weights.json",
    "rows.json",
    "load.log",
    "memory.jsonl",
    "steps.jsonl",
    "probe.safetensors",
    "verdict.json",
)
"""The files of a run. train.json, rows.json, steps.jsonl and probe.safetensors are only a training's, as are its folders checkpoints/ and adapter/."""


@dataclass(frozen=True, slots=True)
class RunFolder:
    """One run's files."""

    path: Path

    @property
    def record_path(self) -> Path:
        return self.path / "run.json"

    @property
    def log_path(self) -> Path:
        return self.path / "load.log"

    @property
    def memory_path(self) -> Path:
        return self.path / "memory.jsonl"

    @property
    def plan_path(self) -> Path:
        return self.path / "plan.json"

    @property
    def train_path(self) -> Path:
        return self.path / "train.json"

    @property
    def rows_path(self) -> Path:
        return self.path / "rows.json"

    @property
    def steps_path(self) -> Path:
        return self.path / "steps.jsonl"

    @property
    def probe_path(self) -> Path:
        """Logits of the trained model (stacks/probe.py), which an export is checked against."""
        return self.path / "probe.safetensors"

    @property
    def adapter_path(self) -> Path:
        return self.path / "adapter"

    @property
    def verdict_path(self) -> Path:
        return self.path / "verdict.json"

    def write_record(self, record: RunRecord) -> None:
        write_json(self.record_path, asdict(record))

    def read_record(self) -> RunRecord:
        """BadInput if run.json is missing or invalid."""
        try:
            record = msgspec.convert(json_of(self.record_path), RunRecord)
            msgspec.convert(record.machine, Machine)
            if record.schema != SCHEMA:
                raise ValueError(f"its schema is {record.schema}, and this is loadcheck of schema {SCHEMA}")
        except FileNotFoundError:
            what = "not a run folder: run.json is missing" if self.path.is_dir() else "no such folder"
            raise BadInput(Problem(str(self.path), what, "give a folder under runs/")) from None
        except (OSError, ValueError, RecursionError, msgspec.ValidationError) as error:
            raise BadInput(
                Problem(str(self.record_path), f"not a valid run record ({error})", "give the folder of another run")
            ) from None
        return record

    def release_reserve(self) -> None:
        """Free the reserved space, so that the record can be written even if the log has filled the disk."""
        with suppress(OSError):
            (self.path / RESERVE).unlink()
