"""Training with trl's own trainers, on GPU and CPU: exact losses, atomic checkpoints, and the events that a verdict needs.

The events of a training, flat, each field named as in findings (bytes, counts, texts):

    train_rows     the rows as counted before the load (stacks/packing.py: TokenRows.summary)
    train_begin    the memory before the trainer was created, and the peak until its first step
    train_step     at most MAX_STEP_EVENTS, for progress; steps.jsonl has every step (runs/steps.py)
    train_done     losses, whether base and adapters changed (by hash), peaks, whether the saved adapters equal those in memory
    probe          whether the reference logits for exports were saved (stacks/probe.py)
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from loadcheck.data import Data, read_data
from loadcheck.data.faults import Faults
from loadcheck.errors import BadInput, Problem
from loadcheck.logs.events import Probe, TrainBegin, TrainDone, TrainStep
from loadcheck.plan import LoadPlan
from loadcheck.runs.checkpoints import check_whole, drop_old, publish, step_of
from loadcheck.runs.folder import RunFolder
from loadcheck.runs.steps import Step, StepWriter, read_steps
from loadcheck.specs.profile import MAX_COUNT
from loadcheck.specs.training import TrainJob
from loadcheck.stacks.engine_common import digest, finite, frozen, seconds_since, trainable
from loadcheck.stacks.packing import PackedRows, TokenRows, check_enough_rows, pack
from loadcheck.stacks.preflight import BASE_FILE, check_adapters, check_base, check_tokens
from loadcheck.stacks.probe import keep_probe
from loadcheck.stacks.recorder import Recorder
from loadcheck.stacks.rows import IGNORED, RowTokenizer, TokenRow, check_vocabulary, end_ids

MAX_STEP_EVENTS = 2_000
"""Far below the number of log lines that are kept (logs/attempt.py: MAX_KEPT)."""
NEVER = 10**9
"""The save_steps of a training that saves a checkpoint only at its end."""
EOS_ROWS, EOS_TOKENS = 4, 1024
"""How many rows are checked for whether the model has learned to end its answers, and the longest of them."""
HASH_THREADS = 4


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


# ----------------------------------------------------------------------------------------------------------- trl's trainers


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


# ------------------------------------------------------------------------------------------------------------------ the run


@dataclass(frozen=True, slots=True)
class Session:
    """A training to run: its job, and where its results are kept."""

    plan: LoadPlan
    job: TrainJob
    directory: Path
    folder: RunFolder
    recorder: Recorder

    @property
    def partial(self) -> Path:
        """Where unfinished files are written."""
        return self.folder.path / "checkpoints" / ".partial"

    def data(self) -> Data:
        """The rows; BadInput where the file has changed since the run began."""
        data = read_data(Path(self.job.data), self.job.settings.method)
        if data.sha256 != self.job.data_sha256:
            what = "has changed since this run began"
            raise BadInput(Problem(self.job.data, what, "restore the file, or start a new training", "--data"))
        return data

    def tokens(self, tokenizer: Any, faults: Faults) -> TokenRows:
        """Every row as tokens, and packed where requested; packing has no limit on a row's length."""
        settings = self.job.settings
        limit = MAX_COUNT if settings.packing else self.job.limit_tokens
        row_tokenizer = RowTokenizer(tokenizer, end_ids(tokenizer, self.directory), limit, self.job.truncate)
        rows = self.data().rows
        tokenize = row_tokenizer.prompts if settings.method == "grpo" else row_tokenizer.rows
        examples = tokenize(rows, faults)
        check_vocabulary(examples, self.plan.config.vocab_size, faults)
        packed = self._packed(examples, tokenizer.eos_token_id, faults) if settings.packing and not faults else None
        token_rows = TokenRows(examples, row_tokenizer.learned, packed)
        if not faults:
            check_tokens(self.folder, token_rows.summary()["tokens_sha256"])
        return token_rows

    def _packed(self, rows: list[TokenRow], eos_id: int | None, faults: Faults) -> PackedRows:
        settings, length = self.job.settings, self.job.limit_tokens
        packed = pack(rows, length, eos_id, self.job.schedule.seed)
        check_enough_rows(packed, length, settings.rows * settings.gradient_accumulation_steps, faults)
        return packed

    def config_arguments(self, backend: Backend) -> dict[str, Any]:
        """The arguments that SFTConfig and GRPOConfig share (transformers/training_args.py)."""
        settings, schedule = self.job.settings, self.job.schedule
        return {
            "output_dir": str(self.partial),
            "per_device_train_batch_size": settings.per_device_train_batch_size,
            "gradient_accumulation_steps": settings.gradient_accumulation_steps,
            "optim": settings.optim,
            "max_steps": schedule.max_steps or -1,
            "num_train_epochs": schedule.num_train_epochs,
            "learning_rate": schedule.learning_rate,
            "lr_scheduler_type": schedule.lr_scheduler_type,
            "warmup_steps": schedule.warmup_steps,
            "warmup_ratio": schedule.warmup_ratio,
            "weight_decay": schedule.weight_decay,
            "seed": schedule.seed,
            "save_strategy": "steps",
            "save_steps": schedule.save_steps or NEVER,
            "logging_steps": 1,
            "report_to": "none",
            "disable_tqdm": True,
            **backend.arguments,
        }


def run_trainer(
    session: Session, backend: Backend, model: Any, make: Callable[[], Any], rows: Sequence[TokenRow]
) -> None:
    """Train to the end, save the adapters, and record the results.

    Args:
        make: creates trl's trainer, of a class from `monitored`.
        rows: of the data, before packing.
    """
    recorder, steps_path = session.recorder, session.folder.steps_path
    check_adapters(model)
    adapters_before, base_before = digest(trainable(model)), parallel_digest(frozen(model))
    check_base(None if session.job.resume_from is None else Path(session.job.resume_from), base_before)
    monitor = StepMonitor(recorder, StepWriter(steps_path, _steps_before(session.job)), backend)
    monitor.before_trainer()
    trainer = make()
    trainer.base_sha256 = base_before
    _attach_monitor(trainer, monitor, session.folder.path / "checkpoints")
    start_s = time.monotonic()
    trainer.train(resume_from_checkpoint=session.job.resume_from)
    train_s = seconds_since(start_s)
    steps = read_steps(steps_path)
    recorder.record(
        TrainDone(
            num_steps=len(steps),
            num_planned_steps=trainer.state.max_steps,
            train_s=train_s,
            first_loss=steps[0].loss,
            last_loss=steps[-1].loss,
            adapter_changed=digest(trainable(model)) != adapters_before,
            base_unchanged=parallel_digest(frozen(model)) == base_before,
            saved_adapter_same=_save_adapters(session, model, trainer.processing_class),
            **_learned_ends(session, backend, model, rows),
        )
    )
    _keep_probe(session, backend, model, trainer.processing_class)
    os.chdir(session.folder.path)  # a GPU's training works in the folder that is deleted here
    shutil.rmtree(session.partial)


def _attach_monitor(trainer: Any, monitor: StepMonitor, checkpoints: Path) -> None:
    """Monitor the trainer, and stop it from printing the same values itself."""
    from transformers import PrinterCallback

    trainer.monitor, monitor.trainer, trainer.checkpoints = monitor, trainer, checkpoints
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_callback(monitor))


def _steps_before(job: TrainJob) -> list[Step]:
    """The steps before the checkpoint to resume from; BadInput where that checkpoint is damaged."""
    if job.resume_from is None:
        return []
    checkpoint = Path(job.resume_from)
    check_whole(checkpoint)
    steps = read_steps(checkpoint.parents[1] / "steps.jsonl")
    return [step for step in steps if step.step <= step_of(checkpoint)]


def parallel_digest(tensors: Iterable[Any]) -> str:
    """SHA-256 of the tensors' own hashes, computed by several threads: gigabytes in seconds, without device memory."""
    with ThreadPoolExecutor(HASH_THREADS) as threads:
        hashes = threads.map(lambda tensor: digest([tensor]), list(tensors))
    return sha256("".join(hashes).encode("ascii")).hexdigest()


def _save_adapters(session: Session, model: Any, tokenizer: Any) -> bool:
    """Save the adapters in peft's format, with the tokenizer; returns whether the file equals the weights in memory."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import load_file

    written = session.partial / "adapter"
    model.save_pretrained(str(written))
    tokenizer.save_pretrained(str(written))
    saved, held = load_file(written / "adapter_model.safetensors"), get_peft_model_state_dict(model)
    same = saved.keys() == held.keys() and all(saved[name].equal(held[name].cpu()) for name in saved)
    publish(written, session.folder.path / "adapter")
    return same


def _keep_probe(session: Session, backend: Backend, model: Any, tokenizer: Any) -> None:
    """Save the reference for exports. If that fails, the training is still good, and `export` reports what is missing."""
    try:
        keep_probe(session.folder.probe_path, model, tokenizer, backend.forward())
    except Exception as error:
        session.recorder.record(Probe(kept=False, why=f"{type(error).__name__}: {error}"))
    else:
        session.recorder.record(Probe(kept=True))


def _learned_ends(session: Session, backend: Backend, model: Any, rows: Sequence[TokenRow]) -> dict[str, Any]:
    """In how many of the checked rows the model would end its answer where the row does; empty for random weights."""
    most = min(EOS_TOKENS, session.job.limit_tokens)
    short = [row for row in rows if row.ends_answer and len(row.input_ids) <= most]
    checked = sorted(short, key=lambda row: len(row.input_ids))[:EOS_ROWS]
    if session.plan.profile.weights == "synthetic" or session.job.settings.method == "grpo" or not checked:
        return {}
    with backend.forward():
        found = sum(_predicts_end(model, row) for row in checked)
    return {"num_ends_looked_at": len(checked), "num_ends_learned": found}


def _predicts_end(model: Any, row: TokenRow) -> bool:
    import torch

    last = max(at for at, label in enumerate(row.labels) if label != IGNORED)
    logits = model(input_ids=torch.tensor([row.input_ids[:last]], device=model.device)).logits
    return bool(logits[0, -1].argmax().item() == row.labels[last])
