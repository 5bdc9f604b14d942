"""Predicts one model on one card for many settings, and searches for those that fit.

A card must hold the engine's budget and what is outside it. The highest utilization that leaves room for the latter, with a margin for the
prediction's error, is found by bisection; so is the longest length that the budget then holds. The settings are for work, so what must fit
is the peak of a full batch, not only that of the load with its one short answer (`MemoryAccount.largest_bytes`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from loadcheck.predict.account import Prediction
from loadcheck.predict.card import Card
from loadcheck.predict.case import Case
from loadcheck.predict.stack import Stack
from loadcheck.specs.files import changed
from loadcheck.specs.profile import Profile
from loadcheck.specs.trouble import Shortage

UTILIZATION_STEPS = 100
"""Utilization is proposed in hundredths; the load log prints no more digits."""
LENGTH_STEP = 256
"""The engine's own estimate counts tokens in these steps (unsloth_zoo/vllm_utils.py:773-782)."""
NOTHING: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Proposal:
    """Settings that fit, with their prediction.

    Attributes:
        headroom_bytes: what the card has left at the peak of the load or of a full batch after it, whichever is larger.
    """

    profile: Profile
    prediction: Prediction
    headroom_bytes: int


class Search:
    """Predictions of one model on one card, for many settings. `given` are the profile's keys that must not be changed."""

    def __init__(self, stack: Stack, case: Case, given: frozenset[str] = NOTHING) -> None:
        self.stack, self.case, self.given = stack, case, given

    @property
    def card(self) -> Card:
        return self.case.gpu

    def other(self, case: Case | None = None, given: frozenset[str] | None = None) -> Search:
        """The same search from another case, or with other keys given."""
        return Search(self.stack, case or self.case, self.given if given is None else given)

    def predict(self, profile: Profile) -> Prediction:
        """The stack's prediction for these settings."""
        return self.stack.predict(self.case.with_profile(profile))

    def left(self, profile: Profile, prediction: Prediction) -> dict[Shortage, int]:
        """What a load with these settings leaves of each resource that it can run out of."""
        return self.stack.left(self.case.with_profile(profile), prediction)

    def propose(self, profile: Profile) -> Proposal | None:
        """`profile` itself, if it fits even with the largest expected error of the prediction."""
        prediction = self.predict(profile)
        if not (prediction.fits and self._holds(prediction)):
            return None
        left = self.left(profile, prediction)
        if any(left[short] < need for short, need in self.stack.slack(self.card).items()):
            return None
        return Proposal(profile, prediction, self.card.total_bytes - prediction.memory.largest_bytes)

    def _holds(self, prediction: Prediction) -> bool:
        """Whether the card holds a full batch even with the largest expected error of the prediction."""
        return prediction.memory.largest_bytes <= (1 - self.stack.peak_slack) * self.card.total_bytes

    def highest_utilization(self, profile: Profile) -> Proposal | None:
        """The highest utilization whose peak fits the card with a margin, in hundredths; or the given one."""
        if "gpu_memory_utilization" in self.given:
            return self.propose(profile)

        def holds(hundredths: int) -> bool:
            return self._holds(self.predict(at_utilization(profile, hundredths)))

        best = last_true(holds, 1, UTILIZATION_STEPS - 1)
        return None if best is None else self.propose(at_utilization(profile, best))

    def same_at_lower_utilization(self, proposal: Proposal) -> Proposal:
        """The same load at the lowest utilization, in hundredths, with equal figures; or the given one.

        Above some utilization unsloth caps the budget by what it reserves for training (unsloth_zoo/vllm_utils.py:759-763), so a
        higher one requests more and gets the same.
        """
        if "gpu_memory_utilization" in self.given:
            return proposal
        profile, figures = proposal.profile, proposal.prediction.figures
        highest = round(profile.gpu_memory_utilization * UTILIZATION_STEPS)

        def is_same(fewer: int) -> bool:
            return self.predict(at_utilization(profile, highest - fewer)).figures == figures

        fewer = last_true(is_same, 0, highest - 1)
        return (self.propose(at_utilization(profile, highest - fewer)) if fewer else None) or proposal

    def lowest_utilization(self, profile: Profile) -> Proposal | None:
        """The lowest utilization that still holds one request of full length, in hundredths; or the given one."""
        if "gpu_memory_utilization" in self.given:
            return self.propose(profile)
        for hundredths in range(1, UTILIZATION_STEPS):
            if (proposal := self.propose(at_utilization(profile, hundredths))) is not None:
                return proposal
        return None

    def longest(self, profile: Profile) -> Proposal | None:
        """The longest max_seq_length that fits at its highest utilization, in steps of 256 tokens."""

        def fits(steps: int) -> bool:
            return self.highest_utilization(at_length(profile, steps * LENGTH_STEP)) is not None

        least = 1 if fits(1) else 2  # a batch of 256 tokens is too small for more than 256 sequences
        most = last_true(fits, least, self.case.config.max_position_embeddings // LENGTH_STEP)
        return None if most is None else self.highest_utilization(at_length(profile, most * LENGTH_STEP))


def last_true(holds: Callable[[int], bool], low: int, high: int) -> int | None:
    """The largest number from low to high for which `holds` is true; it must be true up to some number and false beyond. None if false at low."""
    if not holds(low):
        return None
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low


def at_utilization(profile: Profile, hundredths: int) -> Profile:
    """The same profile at another utilization, in hundredths."""
    return changed(profile, {"gpu_memory_utilization": hundredths / UTILIZATION_STEPS})


def at_length(profile: Profile, length: int) -> Profile:
    """The same profile for requests of another length, in tokens."""
    return changed(profile, {"max_seq_length": length})
