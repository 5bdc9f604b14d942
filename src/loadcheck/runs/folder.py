"""The run folder: run.json (what was asked for and how it ended), load.log (raw), memory.jsonl (samples), verdict.json."""

from __future__ import annotations

import json
import math
import os
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from itertools import count
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from loadcheck.disk import read_at_most
from loadcheck.encoding import json_text
from loadcheck.errors import BadInput, Problem
from loadcheck.runs.origin import Origin
from loadcheck.runs.private import make_private, open_private
from loadcheck.runs.redact import Redactor
from loadcheck.runs.secrets import secrets

SCHEMA = 1
RUNS = Path("runs")
MAX_RECORD_BYTES = 4 * 1024 * 1024
"""Far larger than any run.json, so that a hostile one cannot fill memory."""

RESERVE = ".reserve"
RESERVE_BYTES = 65536
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
PARTIAL = ".partial"


NumBytes = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Seconds = Annotated[float, Meta(ge=0, le=1e9)]


@dataclass(slots=True, kw_only=True)
class RunRecord:
    """run.json. `outcome` stays "running" until the parent has seen the end, so it remains so if the parent was killed.

    Attributes:
        machine: the GPU and the memory before the load; `gpu` is null without one.
        predicted: the figures predicted before the load, by JSON name; null if not predicted.
        outcome: running, completed, failed, killed or interrupted.
        reason: how the child ended, in words.
        training: for `loadcheck train`: its job (specs/training.py: TrainJob) and the predicted peaks; null for a load.
        origin: the fleet's node that it ran on; None in folders older than fleets.
    """

    schema: int = SCHEMA
    id: Annotated[str, Meta(min_length=1)]
    loadcheck: str
    commit: str | None
    profile: dict[str, Any]
    machine: dict[str, Any]
    predicted: dict[str, Any] | None
    started_at: str
    ended_at: str | None = None
    duration_s: Seconds | None = None
    outcome: str = "running"
    exit_code: int | None = None
    reason: str = ""
    peak_device_bytes: NumBytes | None = None
    peak_host_bytes: NumBytes | None = None
    notes: list[str] = field(default_factory=list)
    training: dict[str, Any] | None = None
    origin: Origin | None = None


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
            record = msgspec.convert(_json_of(self.record_path), RunRecord)
            msgspec.convert(record.machine, _Machine)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _MachineGpu:
    """`machine.gpu` of run.json (device.py: GpuDevice)."""

    name: str
    compute_capability: str
    total_bytes: NumBytes
    free_bytes: NumBytes
    driver_cuda: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Machine:
    """`machine` of run.json; other keys are ignored."""

    gpu: _MachineGpu | None = None
    ram_available_bytes: NumBytes | None = None
    python: str | None = None


def _json_of(path: Path) -> Any:
    """The content of a JSON file of a run folder; ValueError if it is too large or invalid."""
    content = read_at_most(own_file(path), MAX_RECORD_BYTES)
    return json.loads(content, parse_constant=_no_number, parse_float=_finite)


def _no_number(constant: str) -> float:
    """Refuse NaN and Infinity, which Python's parser accepts and JSON does not have."""
    raise ValueError(f"{constant} is no number of JSON")


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _no_number(text)


def new_run_id(profile: str, now: datetime) -> str:
    return f"{now.astimezone(timezone.utc):%Y%m%dT%H%M%SZ}-{profile}"


def default_folder(profile: str) -> Path:
    """The default folder of a run: runs/<time>-<profile>."""
    return RUNS / new_run_id(profile, datetime.now(timezone.utc))


def create_run_folder(path: Path | None, run_id: str) -> RunFolder:
    """Make the folder of a new run: `path`, or runs/<id>, or runs/<id>-2 if another run began in the same second.

    BadInput if `path` already holds a run, or cannot be written; this is checked before anything is loaded.
    """
    if path is not None:
        return _claim(path)
    for number in count(1):
        folder = RUNS / (run_id if number == 1 else f"{run_id}-{number}")
        try:
            make_private(folder)
        except FileExistsError:
            continue
        except OSError as error:
            raise _unwritable(folder, error) from None
        return _claim(folder)
    raise AssertionError("there is always a next number")


def refuse_taken(path: Path) -> None:
    """BadInput if `path` cannot become the folder of a new run: it is a file, or the folder of an earlier run."""
    if path.exists() and not path.is_dir():
        raise BadInput(Problem(str(path), "is a file", "give a --run-dir that is a folder, or does not exist yet"))
    if (path / "run.json").exists():
        raise _taken(path, "holds a run already")


def _claim(folder: Path) -> RunFolder:
    """Claim the folder for one run with a file that only one process can create; the file also reserves disk space for the end of the run."""
    try:
        make_private(folder, exist_ok=True)
        reserve = open_private(folder / RESERVE, "xb")
    except FileExistsError as error:
        raise (
            _taken(folder, "another load has begun in it") if folder.is_dir() else _unwritable(folder, error)
        ) from None
    except OSError as error:
        raise _unwritable(folder, error) from None
    try:
        with reserve:
            reserve.write(b"\0" * RESERVE_BYTES)
    except OSError as error:
        RunFolder(folder).release_reserve()
        raise _unwritable(folder, error) from None
    existing = [name for each in FILES for name in (each, each + PARTIAL) if os.path.lexists(folder / name)]
    if existing:
        RunFolder(folder).release_reserve()
        raise _taken(
            folder, "holds a run already" if "run.json" in existing else f"holds {', '.join(existing)} already"
        )
    return RunFolder(folder)


def _taken(folder: Path, what: str) -> BadInput:
    return BadInput(Problem(str(folder), what, "give another --run-dir; no run is overwritten"))


def _unwritable(folder: Path, error: OSError) -> BadInput:
    return BadInput(
        Problem(
            str(folder),
            f"cannot be written ({error.strerror})",
            "give a --run-dir that you may write to, on a disk with room",
        )
    )


def own_file(path: Path) -> Path:
    """`path`, a file of a run folder; BadInput if it is a link, which may lead anywhere, or a pipe, which may never end."""
    if path.is_symlink() or (path.exists() and not path.is_file()):
        what = "is not a regular file, but a link, a folder or a device"
        raise BadInput(Problem(str(path), what, "give a run folder as `loadcheck load` made it"))
    return path


def read_json(path: Path) -> Any:
    """The content of a JSON file of a run folder; None if it does not exist, BadInput if it cannot be read."""
    try:
        return _json_of(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(Problem(str(path), f"cannot be read ({error})", "give the folder of another run")) from None


def write_json(path: Path, data: Any) -> None:
    """Write a JSON file atomically, with secrets redacted, readable only by its owner.

    ASCII can hold names that are not valid UTF-8, and no terminal codes. If the folder has become read-only, an existing file is overwritten in
    place.
    """
    make_private(path.parent, exist_ok=True)  # the folder may have been removed meanwhile
    partial = path.with_suffix(path.suffix + PARTIAL)
    text = json_text(Redactor(secrets(os.environ)).data(data)) + "\n"
    try:
        with open_private(partial, "w", encoding="ascii") as new:
            new.write(text)
        partial.replace(path)
    except PermissionError:
        with path.open("r+b") as file:
            file.write(text.encode("ascii"))
            file.truncate()
    except OSError:
        with suppress(OSError):
            partial.unlink()
        raise
