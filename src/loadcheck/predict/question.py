"""What is asked: the load of which model, with which settings, on which card."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from loadcheck.predict.card import Card
from loadcheck.specs.files import to_data
from loadcheck.specs.model import ModelConfig
from loadcheck.specs.profile import LINEAR_MODULES, Profile
from loadcheck.units import show_bytes, to_gib


@dataclass(frozen=True, slots=True)
class Question:
    """A load that is asked about.

    Attributes:
        card: None for a load without vLLM, of which nothing depends on a card.
        searched: keys of the profile that an answer is going to say, so that the profile's own values do not count.
    """

    model_name: str
    config: ModelConfig
    profile: Profile
    card: Card | None
    searched: frozenset[str] = frozenset()

    def __str__(self) -> str:
        """In a line: `llama-3.1-8b-instruct nf4, r 32, length 512, utilization 0.6, on T4 with 14.64 GiB free`."""
        model = f"{self.model_name} {self.config.quantization}"
        return f"{self.profile.name}: {', '.join([model, *self._settings(), self._where()])}"

    def _settings(self) -> Iterator[str]:
        """Those that move memory; of the ones that are seldom other than by default, only where they are."""
        profile, adapters = self.profile, self.profile.adapters
        yield "no adapters" if adapters is None else f"r {adapters.r}"
        if adapters is not None and set(adapters.target_modules) != set(LINEAR_MODULES):
            yield f"on {'+'.join(adapters.target_modules)}"
        if "max_seq_length" not in self.searched:
            yield f"length {profile.max_seq_length}"
        if profile.training.steps:
            yield f"{profile.training.steps} training steps"
        if not profile.uses_vllm:
            return
        if adapters is None or adapters.r != profile.max_lora_rank:
            yield f"slots of rank {profile.max_lora_rank}"
        if "gpu_memory_utilization" not in self.searched:
            yield f"utilization {profile.gpu_memory_utilization}"
        if profile.conservativeness != 1 and "conservativeness" not in self.searched:
            yield f"conservativeness {profile.conservativeness}"
        if profile.enforce_eager:
            yield "no CUDA graphs"

    def _where(self) -> str:
        if self.card is not None:
            return f"on {self.card.name} with {show_bytes(self.card.free_bytes)} free"
        return "on the CPU" if self.profile.engine == "cpu" else "without vLLM"

    def to_json(self) -> dict[str, Any]:
        """`model`, `profile`, `settings` (the profile's keys) and `gpu`: null where none counts."""
        settings = to_data(self.profile)
        named = {key: settings.pop(key) for key in ("name", "description")}
        return {
            "model": {"name": self.model_name, "quantization": self.config.quantization},
            "profile": named,
            "settings": {key: value for key, value in settings.items() if key not in self.searched},
            "gpu": None if self.card is None else _card_json(self.card),
        }


def _card_json(card: Card) -> dict[str, Any]:
    return {
        "name": card.name,
        "compute_capability": str(card.compute_capability),
        "total_gib": round(to_gib(card.total_bytes), 3),
        "free_gib": round(to_gib(card.free_bytes), 3),
        "total_bytes": card.total_bytes,
        "free_bytes": card.free_bytes,
    }
