"""Checks before the first training step, for faults that raise no error but make a training worthless."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from loadcheck.errors import BadInput, Problem
from loadcheck.runs.folder import RunFolder

BASE_FILE = "base.json"
"""In a checkpoint: the hash of the base that its adapters were trained on (stacks/trainer.py: parallel_digest)."""
TRAINABLE_DTYPES = ("torch.float32", "torch.bfloat16")
"""torch's scaler rejects float16 gradients (torch/amp/grad_scaler.py:259 at 2.5.1), and without it small updates round to nothing."""


def check_tokens(folder: RunFolder, tokens_sha256: str) -> None:
    """BadInput where the trainer's tokenizer produces other tokens than the model's own, which were counted before."""
    if not folder.rows_path.exists():
        return
    counted = json.loads(folder.rows_path.read_text(encoding="utf-8")).get("tokens_sha256")
    if counted != tokens_sha256:
        what = "the trainer's tokenizer or chat template produces other tokens than the model's own"
        raise BadInput(Problem("tokenizer", what, "train with the model's own template", "chat_template"))


def check_adapters(model: Any) -> None:
    """BadInput, with all problems at once, where something other than the adapters would be trained, or they cannot be."""
    problems = list(
        _adapter_problems([(name, weight) for name, weight in model.named_parameters() if weight.requires_grad])
    )
    if problems:
        raise BadInput(problems)


def _adapter_problems(trained: Sequence[tuple[str, Any]]) -> Iterator[Problem]:
    if not trained:
        yield Problem(
            "adapters", "none of them is trainable", "attach them again, and not for inference", "requires_grad"
        )
    others = [name for name, _ in trained if ".lora_" not in name]
    if others:
        what = f"{len(others)} weights of the base would be trained, {others[0]} among them"
        yield Problem("adapters", what, "freeze the base", "requires_grad")
    odd = sorted({str(weight.dtype) for _, weight in trained} - set(TRAINABLE_DTYPES))
    if odd:
        what = f"are in {', '.join(odd)}, in which small updates are lost"
        yield Problem("adapters", what, f"train them in {TRAINABLE_DTYPES[0]}", "dtype")
    # on the host, as device memory is measured
    if not all(weight.detach().cpu().isfinite().all() for _, weight in trained):
        yield Problem("adapters", "contain values that are not finite", "attach them again", "weights")


def check_seeded(model: Any, seed: int) -> None:
    """BadInput where the first adapter is not what peft 0.14.0 makes from this seed: then it was set too late, and runs are not repeatable.

    peft/tuners/lora/layer.py:118-119 creates both linears, and reset_lora_parameters (:190) then draws A once more.
    """
    import torch
    from torch import nn

    first = next(module for module in model.modules() if hasattr(module, "lora_A") and len(module.lora_A))
    name = next(iter(first.lora_A))
    held = first.lora_A[name].weight
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        drawn = nn.Linear(held.shape[1], held.shape[0], bias=False)
        nn.Linear(held.shape[0], first.lora_B[name].weight.shape[0], bias=False)
        nn.init.kaiming_uniform_(drawn.weight, a=math.sqrt(5))
    if not torch.equal(drawn.weight, held.float().cpu()):
        what = f"were not initialized from the seed {seed}: they were created before it was set"
        raise BadInput(Problem("adapters", what, "set the seed, then attach them", "random_state"))


def check_base(checkpoint: Path | None, base_sha256: str) -> None:
    """BadInput where a checkpoint's adapters belong to another base than the one that was loaded."""
    if checkpoint is None or not (checkpoint / BASE_FILE).exists():
        return
    if json.loads((checkpoint / BASE_FILE).read_text(encoding="ascii")).get("sha256") != base_sha256:
        what = "has adapters of another base than the one that was loaded"
        raise BadInput(Problem(str(checkpoint), what, "restore that base, or start a new training", "--resume"))
