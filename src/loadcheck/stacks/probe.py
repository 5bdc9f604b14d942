"""What a trained model says to a fixed chat: kept beside its adapters, so that an export can be held to it.

probe.safetensors has these tensors, each float32 of shape [POSITIONS, vocabulary]: the logits after the last tokens of CHATS[0].

    trained   with the adapters
    base      of the same model without them

Its metadata: `chats`, the token ids of every chat of CHATS (null where the template refuses it), `ids`, those that the logits are of, and
`dtype`, what the weights that are not quantized were held in.
"""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from loadcheck.disk import sync_path

PROBE = "probe.safetensors"
POSITIONS = 8
QUESTION = "What is the capital of France?"
ANSWER = "The capital of France is Paris. The capital of Italy is Rome."
CHATS: tuple[list[dict[str, str]], ...] = (
    [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": QUESTION}],
    [
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": "Paris."},
        {"role": "user", "content": "Größer als 北京?"},
    ],
)
"""An answer, a system's turn and several turns; the last ones ask for an answer, as a server does."""


def chat_ids(tokenizer: Any) -> list[list[int] | None]:
    """Each of CHATS in tokens; None where there is no template, or it refuses the roles."""
    return [_ids(tokenizer, chat) for chat in CHATS]


def _ids(tokenizer: Any, chat: list[dict[str, str]]) -> list[int] | None:
    try:
        found = tokenizer.apply_chat_template(chat, add_generation_prompt=chat[-1]["role"] == "user")
    except Exception:  # jinja2's, of a template that raises, or transformers' own where there is none
        return None
    return [int(each) for each in found]


def probe_ids(tokenizer: Any) -> list[int]:
    """The tokens whose logits are compared: of the first chat, or of its words where there is no template."""
    first = chat_ids(tokenizer)[0]
    return [int(each) for each in tokenizer(f"{QUESTION} {ANSWER}")["input_ids"]] if first is None else first


def logits_of(model: Any, ids: list[int]) -> Any:
    """The logits after the last POSITIONS tokens: float32 on the host, [POSITIONS, vocabulary]."""
    import torch

    found = model(input_ids=torch.tensor([ids], device=model.device)).logits
    return found[0, -POSITIONS:].float().cpu().contiguous()


def keep_probe(path: Path, model: Any, tokenizer: Any, forward: AbstractContextManager[Any]) -> None:
    """Write the probe of a trained model; the file is whole or not there."""
    from safetensors.torch import save_file

    was_training = model.training
    model.eval()
    ids = probe_ids(tokenizer)
    with forward:
        trained = logits_of(model, ids)
        with model.disable_adapter():
            base = logits_of(model, ids)
    model.train(was_training)
    weights = model.get_input_embeddings().weight
    if trained.shape[-1] < len(tokenizer):
        raise ValueError(f"the model gives {trained.shape[-1]} numbers a token, and no logits")
    metadata = {
        "chats": json.dumps(chat_ids(tokenizer)),
        "ids": json.dumps(ids),
        "dtype": str(weights.dtype).removeprefix("torch."),
    }
    partial = path.with_name(path.name + ".partial")
    save_file({"trained": trained, "base": base}, partial, metadata)
    sync_path(partial)
    partial.replace(path)


def read_probe(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The tensors, and the metadata as data."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in ("trained", "base")}
        metadata = file.metadata()
    return tensors, {
        "chats": json.loads(metadata["chats"]),
        "ids": json.loads(metadata["ids"]),
        "dtype": metadata["dtype"],
    }


def distance(one: Any, other: Any) -> float:
    """The largest difference of two logits at the same place."""
    return float((one - other).abs().max())
