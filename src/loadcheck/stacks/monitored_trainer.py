"""Derives monitored trainers from trl's: exact losses, and checkpoints that are written atomically."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from loadcheck.runs.checkpoints import drop_old, publish
from loadcheck.stacks.preflight import BASE_FILE
from loadcheck.stacks.step_monitor import StepMonitor


class MonitoredTrainer:
    """Mixin for a trl trainer: records each batch's exact loss (Trainer.log rounds to four digits), and writes checkpoints atomically."""

    monitor: StepMonitor
    checkpoints: Path
    base_sha256: str

    def training_step(self, model: Any, inputs: Any, *arguments: Any, **named: Any) -> Any:
        """transformers/trainer.py:3645."""
        loss = super().training_step(model, inputs, *arguments, **named)  # type: ignore[misc]
        self.monitor.losses.append(loss.item())
        if isinstance(inputs, dict) or hasattr(inputs, "keys"):  # GRPO's inputs are prompts
            self.monitor.shapes.append(tuple(inputs["input_ids"].shape))
        return loss

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Load a checkpoint's adapters through host memory.

        transformers (trainer.py:2841-2866) has peft load them onto the card beside the present ones: 158 MiB more at the peak of a
        resumed training of 8B (H200, 2026-11-29).
        """
        model = self.model if model is None else model  # type: ignore[attr-defined]
        model.load_adapter(resume_from_checkpoint, model.active_adapters[0], is_trainable=True, torch_device="cpu")

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """transformers/trainer.py:3349."""
        super()._load_optimizer_and_scheduler(checkpoint)  # type: ignore[misc]
        share_quantization_maps(self.optimizer.state.values())  # type: ignore[attr-defined]

    def _save_checkpoint(self, *arguments: Any, **named: Any) -> None:
        """transformers/trainer.py:3196 writes into args.output_dir, here a temporary folder; the finished checkpoint is then published."""
        super()._save_checkpoint(*arguments, **named)  # type: ignore[misc]
        name = f"checkpoint-{self.state.global_step}"  # type: ignore[attr-defined]
        self.monitor.writer.sync()
        written = Path(self.args.output_dir) / name  # type: ignore[attr-defined]
        (written / BASE_FILE).write_text(json.dumps({"sha256": self.base_sha256}) + "\n", encoding="ascii")
        publish(written, self.checkpoints / name)
        drop_old(self.checkpoints)


def share_quantization_maps(states: Iterable[dict[str, Any]]) -> None:
    """Make all 8-bit optimizer states share the two quantization maps, as they do in a new optimizer.

    A checkpoint stores a copy of both for each trained tensor (bitsandbytes 0.46.1, optim/optimizer.py:157-229, 464-475): 894 KiB in a
    resumed training of 8B (H200, 2026-11-29).
    """
    shared: dict[str, Any] = {}
    for state in states:
        for name in ("qmap1", "qmap2"):
            if name in state:
                state[name] = shared.setdefault(name, state[name])


class MonitorCallback:
    """A callback for transformers' training loop."""

    monitor: StepMonitor

    def on_train_begin(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        self.monitor.begin_training(state.max_steps)

    def on_step_begin(self, _args: Any, _state: Any, _control: Any, lr_scheduler: Any = None, **_: Any) -> None:
        self.monitor.begin_step(lr_scheduler.get_last_lr()[0])

    def on_step_end(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        self.monitor.end_step(state.global_step)


def monitored(trainer_class: type[Any]) -> type[Any]:
    """A monitored subclass of a trl trainer, derived at the time of the call because unsloth replaces trl's classes."""
    return type(trainer_class.__name__, (MonitoredTrainer, trainer_class), {})


def _callback(monitor: StepMonitor) -> Any:
    from transformers import TrainerCallback

    callback = type("MonitorCallback", (MonitorCallback, TrainerCallback), {})()
    callback.monitor = monitor
    return callback


def attach_monitor(trainer: Any, monitor: StepMonitor, checkpoints: Path) -> None:
    """Monitor the trainer, and stop it from printing the same values itself."""
    from transformers import PrinterCallback

    trainer.monitor, monitor.trainer, trainer.checkpoints = monitor, trainer, checkpoints
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_callback(monitor))
