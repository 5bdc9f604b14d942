"""What a stack must provide so that its loads can be predicted, and settings that fit can be found."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

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


def resolve(profile: Profile) -> Resolved:
    """The model of the profile's own name."""
    return Resolved(*resolve_model(profile.model, profile.load_in_4bit))


@dataclass(frozen=True, kw_only=True, eq=False)
class Stack:
    """One set of packages that loads models, as far as its memory is concerned. The defaults are for what a stack does not have.

    Attributes:
        name: of its folder below stacks/.
        engine: the module whose run(plan, directory, recorder) loads in the calling process; empty for a stack whose logs are only read.
        rungs: changes for a load that is short of memory, cheapest first.
        sequence_shares: factors by which the number of sequences may be scaled (`conservativeness`).
        peak_slack: share of the card that must be left at the peak, to cover the prediction's error.
        loads: whether this stack loads a profile.
        recognises: whether a log without a known profile belongs to this stack.
        resolve: the model that this stack loads for the profile's name; BadInput for an unknown name.
        predict: every figure of a load, and its obstacles.
        predict_training: the memory of training the case's adapters; None where the stack's trainings are not modelled. The last argument is
            the load's prediction where an inference engine stays on the card, else None.
        predict_from_log: the figures that an attempt in a log should contain, from its own card, free memory and settings; the profile is
            None where the settings are unknown, and the key in env/gpus.toml for a card that is not there.
        needs: the bytes that a load needs of each resource whose amount the log prints.
        left: what a load leaves of each resource that it can run out of, in the order in which the engine uses them.
        slack: the margin of each that a load must leave on a card, to cover the prediction's error.
        knobs: each setting that changes memory, changed by one step from the profile, with the step in words.
        concessions: what a user could give up where nothing fits, mildest first.
        model_refusals: why the engine refuses the model with any settings; empty where it accepts it.
    """

    name: str
    engine: str = ""
    rungs: tuple[Rung, ...] = ()
    sequence_shares: tuple[float, ...] = (1.0,)
    peak_slack: float = 0.0
    loads: Callable[[Profile], bool]
    recognises: Callable[[Attempt], bool]
    resolve: Callable[[Profile], Resolved] = resolve
    predict: Callable[[Case], Prediction]
    predict_training: Callable[[Case, TrainSettings, Prediction | None], TrainAccount | None] = lambda *_: None
    predict_from_log: Callable[[Attempt, ModelConfig, Profile | None, str | None], LogPrediction]
    needs: Callable[[Case], dict[Shortage, int]] = lambda _: {}
    left: Callable[[Case, Prediction], dict[Shortage, int]] = lambda *_: {}
    slack: Callable[[Card], dict[Shortage, int]] = lambda _: {}
    knobs: Callable[[Profile], Iterator[tuple[str, Profile]]] = lambda _: iter(())
    concessions: Callable[[Case], Iterator[Concession]] = lambda _: iter(())
    model_refusals: Callable[[Case], Iterator[Obstacle]] = lambda _: iter(())
