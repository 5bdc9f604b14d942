"""Records each step of a training: its exact loss, its tokens and its memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from loadcheck.logs.events import TrainBegin, TrainStep
from loadcheck.runs.steps import Step, StepWriter
from loadcheck.stacks.engine_common import finite
from loadcheck.stacks.recorder import Recorder

MAX_STEP_EVENTS = 2_000
"""Far below the number of log lines that are kept (logs/attempt.py: MAX_KEPT)."""


@dataclass(frozen=True, slots=True)
class Backend:
    """The parts of a training that depend on the hardware.

    Attributes:
        arguments: for trl's config.
        memory: the present memory fields of Step; the peak is the one since the last `reset_peak`.
        forward: the context for forward passes outside of a training step.
    """

    arguments: dict[str, Any]
    memory: Callable[[], dict[str, int]]
    reset_peak: Callable[[], None]
    forward: Callable[[], Any]


@dataclass(slots=True)
class StepMonitor:
    """Records every step. The trainer (MonitoredTrainer) and its callback (MonitorCallback) call it."""

    recorder: Recorder
    writer: StepWriter
    backend: Backend
    trainer: Any = None
    steps: list[Step] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    shapes: list[tuple[int, int]] = field(default_factory=list)
    learning_rate: float = 0.0
    start_s: float = 0.0
    every: int = 1
    before: dict[str, int] = field(default_factory=dict)

    def before_trainer(self) -> None:
        """Call right before the trainer is created."""
        self.backend.reset_peak()
        self.before = {f"before_{name}": size for name, size in self.backend.memory().items()}

    def begin_training(self, num_steps: int) -> None:
        self.every = 1 + num_steps // MAX_STEP_EVENTS
        # under names that differ from the figures of a load
        memory = {f"train_{name}": size for name, size in (self.before | self.backend.memory()).items()}
        self.recorder.record(TrainBegin(num_steps=num_steps, **memory))
        self.start_s = time.monotonic()

    def begin_step(self, learning_rate: float) -> None:
        self.backend.reset_peak()
        self.losses, self.shapes, self.learning_rate = [], [], learning_rate

    def end_step(self, number: int) -> None:
        now_s = time.monotonic()
        tokens = [rows * length for rows, length in self.shapes]
        step = Step(
            step=number,
            loss=finite(sum(self.losses)),
            learning_rate=self.learning_rate,
            step_s=round(now_s - self.start_s, 3),
            num_tokens=sum(tokens) or None,
            longest_tokens=max((length for _, length in self.shapes), default=None),
            reward=_mean(getattr(self.trainer, "_metrics", {}).get("reward")),
            **self.backend.memory(),
        )
        self.start_s = now_s
        self.steps.append(step)
        self.writer.write(step)
        if number % self.every == 0:
            self.recorder.record(TrainStep(step=number, loss=step.loss, step_s=step.step_s, **_step_fields(step)))


def _step_fields(step: Step) -> dict[str, Any]:
    names = ("peak_allocated_bytes", "device_used_bytes", "host_bytes")
    known = {f"train_{name}": getattr(step, name) for name in names if getattr(step, name) is not None}
    return known | {name: getattr(step, name) for name in ("num_tokens", "reward") if getattr(step, name) is not None}


def _mean(values: Sequence[float] | None) -> float | None:
    return None if not values else finite(sum(values) / len(values))
