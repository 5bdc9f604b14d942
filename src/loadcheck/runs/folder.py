"""The run folder: run.json (what was asked for and how it ended), load.log (raw), memory.jsonl (samples), verdict.json."""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from loadcheck.errors import BadInput, Problem

SCHEMA = 1
RUNS = Path("runs")


@dataclass(slots=True, kw_only=True)
class RunRecord:
    """run.json. `outcome` is "running" until the parent has seen the end, so a parent that was killed leaves it so.

    Attributes:
        machine: the GPU and the memory before the load; `gpu` is null without one.
        predicted: the figures predicted before the load, by JSON name; null where they are not predicted.
        outcome: running, completed, failed, killed or interrupted.
        reason: in words, how the child ended.
    """

    schema: int = SCHEMA
    id: str
    loadcheck: str
    commit: str | None
    profile: dict[str, Any]
    machine: dict[str, Any]
    predicted: dict[str, Any] | None
    started_at: str
    ended_at: str | None = None
    duration_s: float | None = None
    outcome: str = "running"
    exit_code: int | None = None
    reason: str = ""
    peak_device_bytes: int | None = None
    peak_host_bytes: int | None = None
    notes: list[str] = field(default_factory=list)


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
    def verdict_path(self) -> Path:
        return self.path / "verdict.json"

    def write_record(self, record: RunRecord) -> None:
        write_json(self.record_path, asdict(record))

    def read_record(self) -> RunRecord:
        """BadInput where run.json is missing or no run.json of ours."""
        try:
            data = json.loads(self.record_path.read_text(encoding="utf-8"))
            return RunRecord(**data)
        except FileNotFoundError:
            raise BadInput(
                Problem(str(self.path), "no run folder: run.json is missing", "give a folder under runs/")
            ) from None
        except (OSError, ValueError, TypeError) as error:
            raise BadInput(
                Problem(str(self.record_path), f"no run record ({error})", "give the folder of another run")
            ) from None


def new_run_id(profile: str, now: datetime) -> str:
    return f"{now.astimezone(timezone.utc):%Y%m%dT%H%M%SZ}-{profile}"


def default_folder(profile: str) -> Path:
    """Where a run goes that names no folder: runs/<time>-<profile>."""
    return RUNS / new_run_id(profile, datetime.now(timezone.utc))


def create_run_folder(path: Path | None, run_id: str) -> RunFolder:
    """Make the folder of a new run: `path`, or runs/<id>.

    BadInput where it holds a run already, or cannot be written: found out before anything is loaded.
    """
    folder = path or RUNS / run_id
    if (folder / "run.json").exists():
        raise BadInput(Problem(str(folder), "holds a run already", "give another --run-dir; no run is written over"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"\0" * 65536)
    except OSError as error:
        raise BadInput(
            Problem(str(folder), f"cannot be written ({error.strerror})", "give a --run-dir on a disk with room")
        ) from None
    return RunFolder(folder)


def write_json(path: Path, data: Any) -> None:
    """Write a JSON file so that a reader sees the old one or the new one, whole."""
    partial = path.with_suffix(path.suffix + ".partial")
    text = json.dumps(data, indent=2, ensure_ascii=False) + "\n"
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
