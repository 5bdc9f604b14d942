"""Runs a training with one of trl's trainers, on a GPU or the CPU, and records what a verdict needs (logs/events.py)."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any

from loadcheck.logs.events import Probe, TrainDone
from loadcheck.runs.checkpoints import check_whole, publish, step_of
from loadcheck.runs.steps import Step, StepWriter, read_steps
from loadcheck.specs.training import TrainJob
from loadcheck.stacks.engine_common import digest, frozen, seconds_since, trainable
from loadcheck.stacks.monitored_trainer import attach_monitor
from loadcheck.stacks.preflight import check_adapters, check_base
from loadcheck.stacks.probe import keep_probe
from loadcheck.stacks.rows import IGNORED, TokenRow
from loadcheck.stacks.step_monitor import Backend, StepMonitor
from loadcheck.stacks.train_session import TrainSession

EOS_ROWS, EOS_TOKENS = 4, 1024
"""How many rows are checked for whether the model has learned to end its answers, and the longest of them."""
HASH_THREADS = 4


def run_trainer(
    session: TrainSession, backend: Backend, model: Any, make: Callable[[], Any], rows: Sequence[TokenRow]
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
    attach_monitor(trainer, monitor, session.folder.path / "checkpoints")
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


def _save_adapters(session: TrainSession, model: Any, tokenizer: Any) -> bool:
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


def _keep_probe(session: TrainSession, backend: Backend, model: Any, tokenizer: Any) -> None:
    """Save the reference for exports. If that fails, the training is still good, and `export` reports what is missing."""
    try:
        keep_probe(session.folder.probe_path, model, tokenizer, backend.forward())
    except Exception as error:
        session.recorder.record(Probe(kept=False, why=f"{type(error).__name__}: {error}"))
    else:
        session.recorder.record(Probe(kept=True))


def _learned_ends(session: TrainSession, backend: Backend, model: Any, rows: Sequence[TokenRow]) -> dict[str, Any]:
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
