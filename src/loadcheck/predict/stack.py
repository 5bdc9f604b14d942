"""What a stack must know for its loads to be predicted and for settings to be found that fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from loadcheck.figures import Figures
from loadcheck.logs import Attempt
from loadcheck.predict.account import Obstacle, Prediction
from loadcheck.predict.band import Band
from loadcheck.predict.card import Card
from loadcheck.predict.case import Case
from loadcheck.predict.train_account import TrainAccount
from loadcheck.specs.model import resolve_model
from loadcheck.specs.profile import Profile
from loadcheck.specs.shape import ModelConfig
from loadcheck.specs.training import TrainSettings
from loadcheck.specs.trouble import Shortage

Amounts = Mapping[Shortage, int]
"""Bytes, but for "batch", which is in tokens."""


@dataclass(frozen=True, slots=True)
class Rung:
    """One kind of change to settings that are short of memory.

    Attributes:
        name, loses: what it does, and what a user loses by it, in words.
        keys: the profile's keys that it changes.
        degrees: the profile turned further and further, given what is short.
        with_utilization: whether the utilization, which is cheaper, may follow it.
    """

    name: str
    loses: str
    keys: tuple[str, ...]
    degrees: Callable[[Profile, Shortage | None], Iterator[Profile]]
    with_utilization: bool = True


Wish = tuple[tuple[str, Case], ...]
"""One thing that a user could give up: in words and as the case without it, mildest first."""


@dataclass(frozen=True, slots=True)
class FromLog:
    """What a log is judged by.

    Attributes:
        figures: those that it should print; None where nothing is predicted.
        bands: of the figures that are not equal to the digit.
        note: why nothing is predicted; empty where something is, or where nothing ever is.
        case: what was predicted, where card and settings are all known; its RAM is None where the log does not say it.
    """

    figures: Figures | None = None
    bands: dict[str, Band] | None = None
    note: str = ""
    case: Case | None = None


@dataclass(frozen=True, slots=True)
class Resolved:
    """A model by the name that a user gives: what is really loaded for it.

    Attributes:
        name: to show.
        notes: what is to be said of it, such as that it is another checkpoint than the one named.
    """

    name: str
    config: ModelConfig
    notes: tuple[str, ...] = ()


class Stack(Protocol):
    """One set of packages that loads models, as far as its memory goes. What a stack does not say of itself is nothing.

    Attributes:
        name: of its folder below stacks/.
        engine: the module whose run(plan, directory, recorder) loads in the process that it is called in; empty for a stack whose logs
            are read only.
        rungs: changes for a load that is short of memory, cheapest first.
        sequence_shares: what the number of sequences may be scaled by (`conservativeness`).
        peak_slack: share of the card that must be left at the peak, as the prediction may be off by so much.
    """

    name: str
    engine: str = ""
    rungs: tuple[Rung, ...] = ()
    sequence_shares: tuple[float, ...] = (1.0,)
    peak_slack: float = 0.0

    def loads(self, profile: Profile) -> bool:
        """Whether a load of this profile is one of this stack."""

    def recognises(self, attempt: Attempt) -> bool:
        """Whether a log of which no profile is known is of this stack."""

    def resolve(self, profile: Profile) -> Resolved:
        """The model that this stack loads for the profile's name; BadInput for a name that is not known."""
        return Resolved(*resolve_model(profile.model, profile.load_in_4bit))

    def predict(self, case: Case) -> Prediction:
        """Every figure of the load, and what keeps it from succeeding."""

    def predict_training(self, case: Case, settings: TrainSettings, engine: Prediction | None) -> TrainAccount | None:
        """What a training of the case's adapters takes; None where the stack's trainings are not modelled.

        Args:
            engine: the load's prediction where an inference engine stays in the card; None where there is none.
        """
        return None

    def predict_from_log(
        self, attempt: Attempt, config: ModelConfig, profile: Profile | None, gpu: str | None
    ) -> FromLog:
        """What an attempt of a log should have printed, from its own card, free memory and settings.

        Args:
            profile: the settings of the load; None where they are not known.
            gpu: the card's key in env/gpus.toml; None for another card.
        """

    def needs(self, case: Case) -> dict[Shortage, int]:
        """Bytes that the load must have of what its log says that it had, by what it would be short of."""
        return {}

    def left(self, case: Case, prediction: Prediction) -> dict[Shortage, int]:
        """What the load leaves of everything that it can be short of, in the order in which the engine comes to it."""
        return {}

    def slack(self, card: Card) -> dict[Shortage, int]:
        """What of it a load must leave on this card, as a prediction may be off by so much."""
        return {}

    def knobs(self, profile: Profile) -> Iterator[tuple[str, Profile]]:
        """Each setting that moves memory turned one step from `profile`, and the step in words."""
        return iter(())

    def wishes(self, case: Case) -> Iterator[Wish]:
        """What a user could give up where nothing fits, least first."""
        return iter(())

    def model_refusals(self, case: Case) -> Iterator[Obstacle]:
        """Why the engine refuses the model whatever the settings; nothing where it takes it."""
        return iter(())
