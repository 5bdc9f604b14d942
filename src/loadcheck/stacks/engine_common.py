"""What the engines share: the training text, the check for the expected word, and digests of tensors."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from typing import Any, TypedDict

from loadcheck.specs.profile import Profile

TRAINING_TEXT = (
    "The capital of France is Paris. The capital of Italy is Rome. The capital of Spain is Madrid. The capital of Portugal is "
    "Lisbon. The capital of Austria is Vienna. The capital of Greece is Athens. The capital of Poland is Warsaw. The capital of "
    "Norway is Oslo. The capital of Sweden is Stockholm. The capital of Finland is Helsinki."
)


class Expectation(TypedDict):
    """An answer's fields for the word that it must contain: see logs/events.py: Answer."""

    expected: str | None
    found: bool | None


def expectation(profile: Profile, text: str) -> Expectation:
    """The word that the answer must contain, and whether it does."""
    word = profile.expected_word
    return {"expected": word, "found": None if word is None else word.lower() in text.lower()}


def finite(number: float) -> float | None:
    """The number, or None where JSON cannot represent it."""
    return number if math.isfinite(number) else None


def trainable(model: Any) -> list[Any]:
    """The adapters' weights: everything that is trained."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def frozen(model: Any) -> list[Any]:
    """All base weights: packed bytes where the model is in 4-bit."""
    return [parameter for parameter in model.parameters() if not parameter.requires_grad]


def digest(tensors: Iterable[Any]) -> str:
    """SHA-256 of the tensors' bytes, one after another; while one is hashed, the next is copied from the device."""
    import torch

    found, hashed = sha256(), None
    with ThreadPoolExecutor(1) as pool:
        for tensor in tensors:
            data = tensor.detach().contiguous().reshape(-1).view(torch.uint8).cpu().numpy()
            if hashed is not None:
                hashed.result()
            hashed = pool.submit(found.update, data)
    return found.hexdigest()


def seconds_since(start_s: float) -> float:
    """The seconds since a time.monotonic(), to the millisecond."""
    return round(time.monotonic() - start_s, 3)
