"""What a stack must provide so that its loads can be predicted, and settings that fit can be found."""

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
"""Bytes, except for "batch", which is in tokens."""


@dataclass(frozen=True, slots=True)
class Rung:
    """One kind of change to settings that are short of memory.

    Attributes:
        name, loses: what it does, and what a user loses by it, in words.
        keys: the profile's keys that it changes.
        degrees: the profile changed further and further, given what is short.
        with_utilization: whether the utilization, which is cheaper, may be adjusted, too.
    """

    name: str
    loses: str
    keys: tuple[str, ...]
    degrees: Callable[[Profile, Shortage | None], Iterator[Profile]]
    with_utilization: bool = True


Concession = tuple[tuple[str, Case], ...]
"""One thing that a user could give up: in words and as the case without it, mildest first."""


@dataclass(frozen=True, slots=True)
class LogPrediction:
    """The prediction that a log is judged by.

    Attributes:
        figures: those that it should print; None where nothing is predicted.
        bands: of the figures that need not be equal to the digit.
        note: why nothing is predicted; empty where something is, or where nothing ever is.
        case: what was predicted, if card and settings are all known; its RAM is None where the log does not state it.
    """

    figures: Figures | None = None
    bands: dict[str, Band] | None = None
    note: str = ""
    case: Case | None = None


@dataclass(frozen=True, slots=True)
class Resolved:
    """The model that is really loaded for a name that a user gives.

    Attributes:
        name: to show.
        notes: about the model, for example that it is another checkpoint than the one named.
    """

    name: str
    config: ModelConfig
    notes: tuple[str, ...] = ()


class Stack(Protocol):
    """One set of packages that loads models, as far as its memory is concerned. The defaults are for what a stack does not have.

    Attributes:
        name: of its folder below stacks/.
        engine: the module whose run(plan, directory, recorder) loads in the calling process; empty for a stack whose logs are only read.
        rungs: changes for a load that is short of memory, cheapest first.
        sequence_shares: factors by which the number of sequences may be scaled (`conservativeness`).
        peak_slack: share of the card that must be left at the peak, to cover the prediction's error.
    """

    name: str
    engine: str = ""
    rungs: tuple[Rung, ...] = ()
    sequence_shares: tuple[float, ...] = (1.0,)
    peak_slack: float = 0.0

    def loads(self, profile: Profile) -> bool:
        """Whether this stack loads this profile."""

    def recognises(self, attempt: Attempt) -> bool:
        """Whether a log without a known profile belongs to this stack."""

    def resolve(self, profile: Profile) -> Resolved:
        """The model that this stack loads for the profile's name; BadInput for an unknown name."""
        return Resolved(*resolve_model(profile.model, profile.load_in_4bit))

    def predict(self, case: Case) -> Prediction:
        """Every figure of the load, and its obstacles."""

    def predict_training(self, case: Case, settings: TrainSettings, engine: Prediction | None) -> TrainAccount | None:
        """The memory of training the case's adapters; None where the stack's trainings are not modelled.

        Args:
            engine: the load's prediction where an inference engine stays on the card, else None.
        """
        return None

    def predict_from_log(
        self, attempt: Attempt, config: ModelConfig, profile: Profile | None, gpu: str | None
    ) -> LogPrediction:
        """The figures that an attempt in a log should contain, from its own card, free memory and settings.

        Args:
            profile: the settings of the load; None where they are unknown.
            gpu: the card's key in env/gpus.toml; None for another card.
        """

    def needs(self, case: Case) -> dict[Shortage, int]:
        """The bytes that the load needs of each resource whose amount the log prints."""
        return {}

    def left(self, case: Case, prediction: Prediction) -> dict[Shortage, int]:
        """What the load leaves of each resource that it can run out of, in the order in which the engine uses them."""
        return {}

    def slack(self, card: Card) -> dict[Shortage, int]:
        """The margin of each that a load must leave on this card, to cover the prediction's error."""
        return {}

    def knobs(self, profile: Profile) -> Iterator[tuple[str, Profile]]:
        """Each setting that changes memory, changed by one step from `profile`, with the step in words."""
        return iter(())

    def concessions(self, case: Case) -> Iterator[Concession]:
        """What a user could give up where nothing fits, mildest first."""
        return iter(())

    def model_refusals(self, case: Case) -> Iterator[Obstacle]:
        """Why the engine refuses the model with any settings; empty where it accepts it."""
        return iter(())
