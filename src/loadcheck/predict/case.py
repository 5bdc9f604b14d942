"""The one thing that is predicted: the load of a model, with a profile's settings, on a card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from loadcheck.predict.card import Card
from loadcheck.specs.files import changed
from loadcheck.specs.profile import Profile
from loadcheck.specs.shape import ModelConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One load, as far as its memory goes. It is made once and handed down.

    Attributes:
        config: the model's shape and quantization.
        profile: the settings.
        card: with what is free on it right before the load; None for a load whose memory depends on no card.
        ram_available_bytes: of the host; None where nothing depends on it.
        model_name: as env/models or its directory calls the model.
        notes: what is to be said of the model, such as that another checkpoint is loaded than the one named.
    """

    config: ModelConfig
    profile: Profile
    card: Card | None = None
    ram_available_bytes: int | None = None
    model_name: str = ""
    notes: tuple[str, ...] = ()

    @property
    def gpu(self) -> Card:
        """The card of a load whose memory depends on one."""
        assert self.card is not None, f"profile {self.profile.name} needs a card"
        return self.card

    def of(self, profile: Profile) -> Case:
        """The same load with other settings."""
        return replace(self, profile=profile)

    def changed(self, settings: Mapping[str, Any]) -> Case:
        """The same load with the settings at some dotted keys changed; BadInput where they are wrong."""
        return self.of(changed(self.profile, settings))
