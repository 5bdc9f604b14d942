"""What is predicted: the load of a model, with a profile's settings, on a card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from msgspec import structs

from loadcheck.plan import LoadPlan
from loadcheck.predict.card import Card
from loadcheck.specs.files import changed
from loadcheck.specs.profile import Profile
from loadcheck.specs.shape import ModelConfig


def as_loaded(config: ModelConfig, profile: Profile, max_loras: int) -> ModelConfig:
    """The model with or without room for adapters, and with a 16-bit or 8-bit KV cache, according to profile and server."""
    return structs.replace(
        config,
        lora=profile.keeps_slots or not profile.has_budget or max_loras > 0,
        kv_number_bytes=1 if profile.float8_kv_cache else 2,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One load, as far as its memory is concerned. It is created once and passed down.

    Attributes:
        config: the model's shape and quantization, adapted to the profile's settings.
        profile: the settings.
        card: with its free memory right before the load; None for a load whose memory does not depend on a card.
        ram_available_bytes: of the host; None where nothing depends on it.
        model_name: the model's name in env/models, or of its directory.
        notes: about the model, for example that another checkpoint is loaded than the one named.
        max_loras: adapters for which a server keeps slots of the profile's `max_lora_rank`; 0 for a load, which has its stack's own slots.
    """

    config: ModelConfig
    profile: Profile
    card: Card | None = None
    ram_available_bytes: int | None = None
    model_name: str = ""
    notes: tuple[str, ...] = ()
    max_loras: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "config", as_loaded(self.config, self.profile, self.max_loras))

    @classmethod
    def of(cls, plan: LoadPlan, card: Card | None, ram_available_bytes: int | None) -> Case:
        """The load of a plan."""
        return cls(
            config=plan.config,
            profile=plan.profile,
            card=card,
            ram_available_bytes=ram_available_bytes,
            model_name=plan.model_name,
        )

    @property
    def gpu(self) -> Card:
        """The card of a load whose memory depends on one."""
        assert self.card is not None, f"profile {self.profile.name} needs a card"
        return self.card

    def with_profile(self, profile: Profile) -> Case:
        """The same load with other settings."""
        return replace(self, profile=profile)

    def changed(self, settings: Mapping[str, Any]) -> Case:
        """The same load with the settings at some dotted keys changed; BadInput for invalid ones."""
        return self.with_profile(changed(self.profile, settings))
