"""Training with trl's own trainers, on either machine: exact losses, whole checkpoints, and what a verdict needs to know.

Events that a training prints, flat, each field named as in findings (bytes, counts, texts):

    train_rows     the rows as counted before the load (stacks/packing.py: TokenRows.summary)
    train_begin    the memory before the trainer was made, and the largest until its first step
    train_step     one of at most MAX_STEP_EVENTS, for progress; every step is in steps.jsonl (runs/steps.py)
    train_done     losses, hashes of base and adapters compared, the peaks, whether the adapters on the disk are those in memory
    probe          whether what an export is held to was kept (stacks/probe.py)
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
from loadcheck.stacks.packing import Packed, TokenRows, pack, refuse_few
from loadcheck.stacks.preflight import BASE, check_adapters, check_base, check_tokens
from loadcheck.stacks.probe import keep_probe
from loadcheck.stacks.recorder import Recorder
from loadcheck.stacks.rows import IGNORED, Tokenized, Tokens, end_ids, refuse_unknown

MAX_STEP_EVENTS = 2_000
"""Far below what is kept of a log (logs/attempt.py: MAX_KEPT)."""
NEVER = 10**9
"""Steps until a checkpoint that is asked for at the end alone."""
EOS_ROWS, EOS_TOKENS = 4, 1024
"""Rows that are looked at for whether the model ends its answers, and the longest of them."""
HASH_THREADS = 4


@dataclass(frozen=True, slots=True)
class Machine:
    """What of a training depends on where it runs.

    Attributes:
        arguments: of trl's config.
        memory: what Step says of memory, as it is now; the peak is that since the last `reset_peak`.
        forward: the context in which the model is asked outside of a training step.
    """

    arguments: dict[str, Any]
    memory: Callable[[], dict[str, int]]
    reset_peak: Callable[[], None]
    forward: Callable[[], Any]


@dataclass(slots=True)
class Watch:
    """Takes note of every step; the trainer calls it (Watched) and so does its loop (Loop)."""

    recorder: Recorder
    writer: StepWriter
    machine: Machine
    trainer: Any = None
    steps: list[Step] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    shapes: list[tuple[int, int]] = field(default_factory=list)
    learning_rate: float = 0.0
    start_s: float = 0.0
    every: int = 1
    before: dict[str, int] = field(default_factory=dict)

    def begin(self) -> None:
        """Right before the trainer is made."""
        self.machine.reset_peak()
        self.before = {f"before_{name}": size for name, size in self.machine.memory().items()}

    def begin_training(self, num_steps: int) -> None:
        self.every = 1 + num_steps // MAX_STEP_EVENTS
        self.recorder.record(TrainBegin(num_steps=num_steps, **_named({**self.before, **self.machine.memory()})))
        self.start_s = time.monotonic()

    def begin_step(self, learning_rate: float) -> None:
        self.machine.reset_peak()
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
            **self.machine.memory(),
        )
        self.start_s = now_s
        self.steps.append(step)
        self.writer.write(step)
        if number % self.every == 0:
            self.recorder.record(TrainStep(step=number, loss=step.loss, step_s=step.step_s, **_of_step(step)))


def _named(memory: dict[str, int]) -> dict[str, int]:
    """By names that are no figures of a load."""
    return {f"train_{name}": value for name, value in memory.items()}


def _of_step(step: Step) -> dict[str, Any]:
    names = ("peak_allocated_bytes", "device_used_bytes", "host_bytes")
    known = {f"train_{name}": getattr(step, name) for name in names if getattr(step, name) is not None}
    known |= {} if step.reward is None else {"reward": step.reward}
    return {"num_tokens": step.num_tokens or 0, **known}


def _mean(values: Sequence[float] | None) -> float | None:
    return None if not values else finite(sum(values) / len(values))


# ----------------------------------------------------------------------------------------------------------- trl's trainers


class Watched:
    """Over a trainer of trl's: each batch's loss as it is (Trainer.log rounds it to four digits), each checkpoint whole or not there."""

    watch: Watch
    checkpoints: Path
    base_sha256: str

    def training_step(self, model: Any, inputs: Any, *arguments: Any, **named: Any) -> Any:
        """transformers/trainer.py:3645."""
        loss = super().training_step(model, inputs, *arguments, **named)  # type: ignore[misc]
        self.watch.losses.append(loss.item())
        if isinstance(inputs, dict) or hasattr(inputs, "keys"):  # GRPO's are prompts
            self.watch.shapes.append(tuple(inputs["input_ids"].shape))
        return loss

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Read the adapters of a checkpoint by way of the host.

        transformers (trainer.py:2841-2866) has peft read them onto the card beside those that are there, 158 MiB more at the peak of a
        resumed training of 8B (H200, 2026-11-29).
        """
        model = self.model if model is None else model  # type: ignore[attr-defined]
        model.load_adapter(resume_from_checkpoint, model.active_adapters[0], is_trainable=True, torch_device="cpu")

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """transformers/trainer.py:3349."""
        super()._load_optimizer_and_scheduler(checkpoint)  # type: ignore[misc]
        share_maps(self.optimizer.state.values())  # type: ignore[attr-defined]

    def _save_checkpoint(self, *arguments: Any, **named: Any) -> None:
        """transformers/trainer.py:3196, which writes into args.output_dir, here a folder aside."""
        super()._save_checkpoint(*arguments, **named)  # type: ignore[misc]
        name = f"checkpoint-{self.state.global_step}"  # type: ignore[attr-defined]
        self.watch.writer.sync()
        written = Path(self.args.output_dir) / name  # type: ignore[attr-defined]
        (written / BASE).write_text(json.dumps({"sha256": self.base_sha256}) + "\n", encoding="ascii")
        publish(written, self.checkpoints / name)
        drop_old(self.checkpoints)


def share_maps(states: Iterable[dict[str, Any]]) -> None:
    """Have all 8-bit states of an optimizer share its two quantization maps, as they did when they were made.

    A checkpoint has a copy of both for each trained tensor (bitsandbytes 0.46.1, optim/optimizer.py:157-229, 464-475): 894 KiB of a resumed
    training of 8B (H200, 2026-11-29).
    """
    shared: dict[str, Any] = {}
    for state in states:
        for name in ("qmap1", "qmap2"):
            if name in state:
                state[name] = shared.setdefault(name, state[name])


class Loop:
    """A callback of transformers' loop."""

    watch: Watch

    def on_train_begin(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        self.watch.begin_training(state.max_steps)

    def on_step_begin(self, _args: Any, _state: Any, _control: Any, lr_scheduler: Any = None, **_: Any) -> None:
        self.watch.begin_step(lr_scheduler.get_last_lr()[0])

    def on_step_end(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        self.watch.end_step(state.global_step)


def watched(trainer_class: type[Any]) -> type[Any]:
    """trl's trainer as ours; made when it is called, as unsloth puts other classes in trl's place."""
    return type(trainer_class.__name__, (Watched, trainer_class), {})


def _loop(watch: Watch) -> Any:
    from transformers import TrainerCallback

    loop = type("Loop", (Loop, TrainerCallback), {})()
    loop.watch = watch
    return loop


# ------------------------------------------------------------------------------------------------------------------ the run


@dataclass(frozen=True, slots=True)
class Session:
    """A training that is to be run: its job, and where its run is kept."""

    plan: LoadPlan
    job: TrainJob
    directory: Path
    folder: RunFolder
    recorder: Recorder

    @property
    def partial(self) -> Path:
        """Where what is not whole yet is written."""
        return self.folder.path / "checkpoints" / ".partial"

    def data(self) -> Data:
        """The rows; BadInput where the file is not what it was when the run began."""
        data = read_data(Path(self.job.data), self.job.settings.method)
        if data.sha256 != self.job.data_sha256:
            what = "is not what it was when this run began"
            raise BadInput(Problem(self.job.data, what, "put the file back, or train anew", "--data"))
        return data

    def tokens(self, tokenizer: Any, faults: Faults) -> TokenRows:
        """Every row in tokens, and packed where that was asked for: then none of them is too long."""
        settings = self.job.settings
        limit = MAX_COUNT if settings.packing else self.job.limit_tokens
        made = Tokenized(tokenizer, end_ids(tokenizer, self.directory), limit, self.job.truncate)
        rows = self.data().rows
        found = made.prompts(rows, faults) if settings.method == "grpo" else made.rows(rows, faults)
        refuse_unknown(found, self.plan.config.vocab_size, faults)
        packed = self._packed(found, tokenizer.eos_token_id, faults) if settings.packing and not faults else None
        token_rows = TokenRows(found, made.learned, packed)
        if not faults:
            check_tokens(self.folder, token_rows.summary()["tokens_sha256"])
        return token_rows

    def _packed(self, rows: list[Tokens], eos_id: int | None, faults: Faults) -> Packed:
        settings, length = self.job.settings, self.job.limit_tokens
        packed = pack(rows, length, eos_id, self.job.schedule.seed)
        refuse_few(packed, length, settings.rows * settings.gradient_accumulation_steps, faults)
        return packed

    def config_arguments(self, machine: Machine) -> dict[str, Any]:
        """The arguments of SFTConfig and GRPOConfig alike (transformers/training_args.py)."""
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
            **machine.arguments,
        }


def run_trainer(
    session: Session, machine: Machine, model: Any, make: Callable[[], Any], rows: Sequence[Tokens]
) -> None:
    """Train to the end, save the adapters, and say what was found.

    Args:
        make: makes trl's trainer, of a class from `watched`.
        rows: of the data, as they are before they are packed.
    """
    recorder, steps_path = session.recorder, session.folder.steps_path
    check_adapters(model)
    adapters_before, base_before = digest(trainable(model)), hash_of(frozen(model))
    check_base(None if session.job.resume_from is None else Path(session.job.resume_from), base_before)
    watch = Watch(recorder, StepWriter(steps_path, _earlier(session.job)), machine)
    watch.begin()
    trainer = make()
    trainer.base_sha256 = base_before
    _watch(trainer, watch, session.folder.path / "checkpoints")
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
            base_unchanged=hash_of(frozen(model)) == base_before,
            saved_adapter_same=_save_adapters(session, model, trainer.processing_class),
            **_ends(session, machine, model, rows),
        )
    )
    _keep_probe(session, machine, model, trainer.processing_class)
    os.chdir(session.folder.path)  # a GPU's training works in the folder that goes now
    shutil.rmtree(session.partial)


def _watch(trainer: Any, watch: Watch, checkpoints: Path) -> None:
    """Have the trainer tell us, and not print what we print."""
    from transformers import PrinterCallback

    trainer.watch, watch.trainer, trainer.checkpoints = watch, trainer, checkpoints
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_loop(watch))


def _earlier(job: TrainJob) -> list[Step]:
    """The steps before the checkpoint that is resumed from; BadInput where that is not whole."""
    if job.resume_from is None:
        return []
    checkpoint = Path(job.resume_from)
    check_whole(checkpoint)
    steps = read_steps(checkpoint.parents[1] / "steps.jsonl")
    return [step for step in steps if step.step <= step_of(checkpoint)]


def hash_of(tensors: Iterable[Any]) -> str:
    """SHA-256 of the tensors' own hashes, which several threads make: gigabytes in seconds, and nothing on the card."""
    with ThreadPoolExecutor(HASH_THREADS) as threads:
        hashes = threads.map(lambda tensor: digest([tensor]), list(tensors))
    return sha256("".join(hashes).encode("ascii")).hexdigest()


def _save_adapters(session: Session, model: Any, tokenizer: Any) -> bool:
    """Save the adapters in peft's form, with the tokenizer; whether the file holds what is in memory."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import load_file

    written = session.partial / "adapter"
    model.save_pretrained(str(written))
    tokenizer.save_pretrained(str(written))
    saved, held = load_file(written / "adapter_model.safetensors"), get_peft_model_state_dict(model)
    same = saved.keys() == held.keys() and all(saved[name].equal(held[name].cpu()) for name in saved)
    publish(written, session.folder.path / "adapter")
    return same


def _keep_probe(session: Session, machine: Machine, model: Any, tokenizer: Any) -> None:
    """What an export is held to. Where it cannot be had the training is as good as ever, and `export` will say what is missing."""
    try:
        keep_probe(session.folder.probe_path, model, tokenizer, machine.forward())
    except Exception as error:
        session.recorder.record(Probe(kept=False, why=f"{type(error).__name__}: {error}"))
    else:
        session.recorder.record(Probe(kept=True))


def _ends(session: Session, machine: Machine, model: Any, rows: Sequence[Tokens]) -> dict[str, Any]:
    """In how many of the rows looked at the model would end its answer where the row does; nothing of random weights."""
    most = min(EOS_TOKENS, session.job.limit_tokens)
    short = sorted((row for row in rows if row.ends and len(row.input_ids) <= most), key=lambda row: len(row.input_ids))
    looked_at = short[:EOS_ROWS]
    if session.plan.profile.weights == "synthetic" or session.job.settings.method == "grpo" or not looked_at:
        return {}
    with machine.forward():
        found = sum(_ends_answer(model, row) for row in looked_at)
    return {"num_ends_looked_at": len(looked_at), "num_ends_learned": found}


def _ends_answer(model: Any, row: Tokens) -> bool:
    import torch

    last = max(at for at, label in enumerate(row.labels) if label != IGNORED)
    logits = model(input_ids=torch.tensor([row.input_ids[:last]], device=model.device)).logits
    return bool(logits[0, -1].argmax().item() == row.labels[last])
