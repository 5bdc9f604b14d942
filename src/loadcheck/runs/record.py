"""run.json: what was asked for, on which machine, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

from msgspec import Meta

from loadcheck.runs.origin import Origin

SCHEMA = 1
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _MachineGpu:
    """`machine.gpu` of run.json (device.py: GpuDevice)."""

    name: str
    compute_capability: str
    total_bytes: NumBytes
    free_bytes: NumBytes
    driver_cuda: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """`machine` of run.json; other keys are ignored."""

    gpu: _MachineGpu | None = None
    ram_available_bytes: NumBytes | None = None
    python: str | None = None
