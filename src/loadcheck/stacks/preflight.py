"""What must hold before the first step of a training: each a fault that no error tells of, and that makes a training worth nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from loadcheck.errors import BadInput, Problem
from loadcheck.runs.folder import RunFolder

BASE = "base.json"
"""Of a checkpoint: the hash of the base that its adapters are trained on (stacks/trainer.py: hash_of)."""
TRAINABLE_DTYPES = ("torch.float32", "torch.bfloat16")
"""In float16 torch's scaler refuses the gradients (torch/amp/grad_scaler.py:259 at 2.5.1), and without it small steps round to nothing."""


def check_tokens(folder: RunFolder, tokens_sha256: str) -> None:
    """BadInput where the trainer's tokenizer makes other tokens than those that were counted with the model's own."""
    if not folder.rows_path.exists():
        return
    counted = json.loads(folder.rows_path.read_text(encoding="utf-8")).get("tokens_sha256")
    if counted != tokens_sha256:
        what = "the trainer's tokenizer or its template makes other tokens of the rows than the model's own"
        raise BadInput(Problem("tokenizer", what, "train with the model's own template", "chat_template"))


def check_adapters(model: Any) -> None:
    """BadInput, all at once, where what is trained is not the adapters, or cannot be."""
    problems = list(_adapter_problems([(name, each) for name, each in model.named_parameters() if each.requires_grad]))
    if problems:
        raise BadInput(problems)


def _adapter_problems(trained: Sequence[tuple[str, Any]]) -> Iterator[Problem]:
    if not trained:
        yield Problem(
            "adapters", "none of them is trainable", "attach them anew, and not for inference", "requires_grad"
        )
    others = [name for name, _ in trained if ".lora_" not in name]
    if others:
        what = f"{len(others)} weights of the base would be trained, {others[0]} among them"
        yield Problem("adapters", what, "freeze the base", "requires_grad")
    odd = sorted({str(each.dtype) for _, each in trained} - set(TRAINABLE_DTYPES))
    if odd:
        what = f"are in {', '.join(odd)}, in which no small step is kept"
        yield Problem("adapters", what, f"train them in {TRAINABLE_DTYPES[0]}", "dtype")
    if any(
        not each.detach().cpu().isfinite().all() for _, each in trained
    ):  # on the host: the card's memory is measured
        yield Problem("adapters", "hold what is no number", "attach them anew", "weights")


def check_seeded(model: Any, seed: int) -> None:
    """BadInput where the first adapter is not what peft 0.14.0 makes of this seed: made before it was set, each run begins elsewhere.

    peft/tuners/lora/layer.py:118-119 makes both linears, and reset_lora_parameters (:190) then draws A once more.
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
        what = f"were not made from the seed {seed}: they were made before it was set"
        raise BadInput(Problem("adapters", what, "set the seed, then attach them", "random_state"))


def check_base(checkpoint: Path | None, base_sha256: str) -> None:
    """BadInput where a checkpoint's adapters are of another base than the one that was loaded."""
    if checkpoint is None or not (checkpoint / BASE).exists():
        return
    if json.loads((checkpoint / BASE).read_text(encoding="ascii")).get("sha256") != base_sha256:
        what = "is of adapters on another base than the one that was loaded"
        raise BadInput(Problem(str(checkpoint), what, "bring that base back, or train anew", "--resume"))
