"""The prediction of a training: its peaks, whether it fits, and the largest value of each setting that does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from loadcheck.errors import BadInput, Problem
from loadcheck.predict import Case, Prediction
from loadcheck.predict.terms import Term
from loadcheck.predict.train_account import TrainAccount
from loadcheck.specs.files import changed, to_data
from loadcheck.specs.training import TrainSettings
from loadcheck.stacks import predict, stack_of


@dataclass(frozen=True, slots=True)
class TrainPrediction:
    """The prediction of a training.

    Attributes:
        engine: the load's prediction where vLLM is on the card, else None.
    """

    case: Case
    settings: TrainSettings
    engine: Prediction | None
    memory: TrainAccount

    @property
    def device(self) -> Term:
        """The card's peak."""
        return self.memory.device

    @property
    def host(self) -> Term:
        """The host's pinned memory."""
        return self.memory.host

    @property
    def fits(self) -> bool:
        """Whether the load succeeds, and the training then runs to its end.

        Before torch fails, it releases the gaps that are whole pages (CUDACachingAllocator.cpp: release_cached_blocks).
        """
        return (self.engine is None or self.engine.fits) and not self.memory.short_bytes

    @property
    def notes(self) -> tuple[str, ...]:
        """How certain the peaks are."""
        return self.memory.notes

    @property
    def fits_with_gaps(self) -> bool:
        """Whether no gaps need to be released, which would cost time at every step."""
        return self.fits and self.device.num_bytes <= self.case.gpu.total_bytes

    @property
    def needed_bytes(self) -> int:
        """The memory that the card would need: the least peak, or more where partly used pages cannot be released."""
        lacking = self.memory.short_bytes
        return max(self.least_bytes, self.case.gpu.total_bytes + lacking) if lacking else self.least_bytes

    @property
    def least_bytes(self) -> int:
        """The card's peak without the gaps between blocks."""
        return self.device.num_bytes - self.memory.gaps_bytes

    @property
    def left_bytes(self) -> int:
        """What the card has free at the peak; negative where it does not suffice."""
        return self.case.gpu.total_bytes - self.device.num_bytes

    def bytes_json(self) -> dict[str, int]:
        return {
            "train_peak_allocated_bytes": self.memory.peak.num_bytes,
            "train_peak_device_bytes": self.device.num_bytes,
            "train_peak_host_bytes": self.host.num_bytes,
        }

    def to_json(self) -> dict[str, Any]:
        """What `predict --json` adds for the training, besides the figures."""
        memory = self.memory
        moments = {
            "before": memory.before,
            "check_for_untrained_tokens": memory.check,
            "first_step": memory.first_step,
            "later_step": memory.later_step,
        }
        return {
            "settings": to_data(self.settings),
            "fits": self.fits,
            "fits_with_gaps": self.fits_with_gaps,
            "peak_in": memory.peak.name,
            "limits": [{"name": term.name, "bytes": term.num_bytes} for term in memory.limits],
            "moments": {name: term.num_bytes for name, term in moments.items()},
            "paged_bytes": memory.paged_bytes,
            "notes": list(self.notes),
            "terms": [memory.peak.to_json(), self.device.to_json(), self.host.to_json()],
        }


def predict_training(case: Case, settings: TrainSettings) -> TrainPrediction:
    """The training of a case's adapters, without the profile's training steps, which are loadcheck's own."""
    return _training(case, settings, _engine(case))


def _engine(case: Case) -> Prediction | None:
    return predict(case) if case.profile.fast_inference else None


def _training(case: Case, settings: TrainSettings, engine: Prediction | None) -> TrainPrediction:
    account = stack_of(case.profile).predict_training(case, settings, engine)
    if account is None:
        what = "a training of this profile is not predicted"
        raise BadInput(Problem(f"profile {case.profile.name}", what, "use a GPU profile"))
    return TrainPrediction(case, settings, engine, account)


# --------------------------------------------------------------------------------------------------------------------- fit

STEP = {"train_seq_length": 64, "max_completion_length": 16, "per_device_train_batch_size": 1, "num_generations": 1}
"""The step of each setting in a search."""
MOST_ROWS = 1 << 14
"""The largest batch, or number of generations, to try."""


@dataclass(frozen=True, slots=True)
class Largest:
    """The largest value of one setting that fits, with the others unchanged; None where not even one step of it does.

    Attributes:
        at_most: the largest with which it still runs to its end; above `value`, torch releases gaps again and again, which takes time.
    """

    setting: str
    value: int | None
    at_most: int | None
    training: TrainPrediction | None
    one_more_bytes: int | None

    def to_json(self) -> dict[str, Any]:
        found = self.training
        return {
            "setting": self.setting,
            "value": self.value,
            "at_most": self.at_most,
            "train_peak_device_bytes": None if found is None else found.device.num_bytes,
            "one_step_more_bytes": self.one_more_bytes,
        }


def fit_training(case: Case, settings: TrainSettings) -> list[Largest]:
    """The longest row, the largest batch and, in GRPO, the most generations that this card holds, each with the others unchanged."""
    names = ["train_seq_length" if settings.method == "sft" else "max_completion_length", "per_device_train_batch_size"]
    names += ["num_generations"] if settings.method == "grpo" else []

    engine = _engine(case)

    def predicted(name: str, value: int) -> TrainPrediction:
        return _training(case, changed(settings, {name: value}, "fit"), engine)

    return [_largest(name, _bound(name, case, settings), predicted) for name in names]


def _bound(name: str, case: Case, settings: TrainSettings) -> int:
    """Rows are not longer than the model supports, and in GRPO not longer than the engine does."""
    if name == "train_seq_length":
        return case.config.max_position_embeddings
    if name == "max_completion_length":
        return case.profile.max_seq_length - settings.max_prompt_length
    return MOST_ROWS


def _largest(name: str, bound: int, predicted: Callable[[str, int], TrainPrediction]) -> Largest:
    """In whole steps: the largest value that fits with gaps, then the largest that runs at all."""
    step = STEP[name]
    at = cache(lambda steps: predicted(name, steps * step))
    most = _bisect(0, bound // step, lambda steps: at(steps).fits_with_gaps)
    at_most = _bisect(most, bound // step, lambda steps: at(steps).fits)
    if not most:
        return Largest(name, None, at_most * step or None, None, None)
    more = at(most + 1).device.num_bytes - at(most).device.num_bytes
    return Largest(name, most * step, at_most * step, at(most), more)


def _bisect(low: int, bound: int, holds: Callable[[int], bool]) -> int:
    """The largest number up to `bound` for which `holds` is true; it must be true for `low`, and false beyond some number. Doubles the
    stride until it is too long, then bisects the gap."""
    stride = 1
    while low + stride <= bound and holds(low + stride):
        low, stride = low + stride, 2 * stride
    high = min(low + stride, bound + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
