"""A trained model's logits for a fixed chat, saved beside its adapters as the reference for exports.

probe.safetensors has these tensors, each float32 of shape [POSITIONS, vocabulary]: the logits after the last tokens of CHATS[0].

    trained   with the adapters
    base      the same model without them

Its metadata: `chats`, the token ids of every chat of CHATS (null where the template rejects it); `ids`, the tokens of the logits; and
`dtype`, that of the unquantized weights.
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
"""An answer, a system turn, and several turns; the last two end with a question, as a server's requests do."""


def chat_ids(tokenizer: Any) -> list[list[int] | None]:
    """Each of CHATS as tokens; None where there is no template, or it rejects the roles."""
    return [_ids(tokenizer, chat) for chat in CHATS]


def _ids(tokenizer: Any, chat: list[dict[str, str]]) -> list[int] | None:
    try:
        found = tokenizer.apply_chat_template(chat, add_generation_prompt=chat[-1]["role"] == "user")
    except Exception:  # jinja2's, from a template that raises, or transformers' own where there is none
        return None
    return [int(token_id) for token_id in found]


def probe_ids(tokenizer: Any) -> list[int]:
    """The tokens whose logits are compared: those of the first chat, or of its text where there is no template."""
    first = chat_ids(tokenizer)[0]
    return [int(token_id) for token_id in tokenizer(f"{QUESTION} {ANSWER}")["input_ids"]] if first is None else first


def logits_of(model: Any, ids: list[int]) -> Any:
    """The logits after the last POSITIONS tokens: float32 on the host, [POSITIONS, vocabulary]."""
    import torch

    found = model(input_ids=torch.tensor([ids], device=model.device)).logits
    return found[0, -POSITIONS:].float().cpu().contiguous()


def keep_probe(path: Path, model: Any, tokenizer: Any, forward: AbstractContextManager[Any]) -> None:
    """Write the probe of a trained model, atomically."""
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
        raise ValueError(f"the model returns {trained.shape[-1]} values per token, which are not logits")
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
    """The tensors, and the decoded metadata."""
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
    """The largest difference between two logits at the same position."""
    return float((one - other).abs().max())
