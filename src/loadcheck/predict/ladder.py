"""The ladder of settings for a load that is short of memory: every rung with its gain, cheapest first.

The stack defines the rungs and their order (`Stack.rungs`).

A rung is changed no further than necessary, and is tried alone before it is combined with the rungs below it; where several are
needed, those that turn out to be unnecessary are undone. A step fits if it leaves the margin for the prediction's error, or more where a
load has shown a larger error (`need_after`).

The peak here is that of a load, which answers once: that is what `--recover` fixes and measures, with as few changes as possible. `fit`,
which proposes settings for work, also leaves room for a full batch; where a load has none, its prediction warns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from loadcheck.predict.account import Prediction
from loadcheck.predict.search import UTILIZATION_STEPS, Search, at_utilization, last_true
from loadcheck.predict.stack import Amounts, Rung
from loadcheck.specs.files import changed, differences
from loadcheck.specs.profile import Profile
from loadcheck.specs.trouble import Shortage
from loadcheck.units import to_gib


@dataclass(frozen=True, slots=True)
class State:
    """Settings with their prediction.

    Attributes:
        left: what is left of each resource that a load can run out of; negative where it is short.
        lacks: what is missing from the required margins, in the order in which the engine uses the resources.
    """

    profile: Profile
    prediction: Prediction
    left: Amounts
    lacks: Amounts

    @property
    def fits(self) -> bool:
        return self.prediction.fits and not self.lacks

    @property
    def short(self) -> Shortage | None:
        """What the engine will run out of first; None where it fits, or where memory is not the problem."""
        obstacles = (obstacle.short for obstacle in self.prediction.obstacles if obstacle.short is not None)
        return next(iter(self.lacks), next(obstacles, None))

    @property
    def deficit(self) -> tuple[int, int]:
        """The missing bytes and tokens: the fewer, the closer to a load."""
        return sum(lack for short, lack in self.lacks.items() if short != "batch"), self.lacks.get("batch", 0)


@dataclass(frozen=True, slots=True)
class Step:
    """A rung, changed as far as necessary or possible.

    Attributes:
        state: the settings after it, including the rungs below where it does not suffice alone.
        changes: from the requested settings, such as "conservativeness 1.0 → 0.5".
        at: what the requested settings are short of.
        gain: how much more of that is left than with the requested settings: bytes, or tokens of a batch.
    """

    rung: Rung
    state: State
    changes: tuple[str, ...]
    at: Shortage
    gain: int

    @property
    def fits(self) -> bool:
        return self.state.fits

    def to_json(self) -> dict[str, Any]:
        short = self.state.short
        return {
            "step": self.rung.name,
            "loses": self.rung.loses,
            "changes": list(self.changes),
            "short": self.at,
            "gain_gib": None if self.at == "batch" else round(to_gib(self.gain), 3),
            "gain_tokens": self.gain if self.at == "batch" else None,
            "fits": self.fits,
            "still_short": short,
            "lack_gib": None if short is None or short == "batch" else round(to_gib(self.state.lacks.get(short, 0)), 3),
            "figures": self.state.prediction.figures.to_json(),
        }


class Ladder:
    """The ladder from one profile on one card. `needs` are the margins that a load must leave; default: the stack's slack on the card."""

    def __init__(self, search: Search, base: Profile, needs: Amounts | None = None) -> None:
        self._search = search
        self._needs = search.stack.slack(search.card) if needs is None else needs
        self._rungs = search.stack.rungs
        self.base = self.state(base)

    def state(self, profile: Profile) -> State:
        prediction = self._search.predict(profile)
        left = self._search.left(profile, prediction)
        lacks = {short: self._needs[short] - amount for short, amount in left.items() if amount < self._needs[short]}
        return State(profile, prediction, left, lacks)

    def climb(self) -> Iterator[Step]:
        """Every rung up to the first that fits; none where memory is not the problem."""
        at = self.base.short
        if at is None or any(obstacle.short is None for obstacle in self.base.prediction.obstacles):
            return
        held = self.base
        for number, rung in enumerate(self._rungs):
            after = self._change(rung, self.base)
            if held is not self.base and not (after is not None and after.fits):
                after = self._combine(held, self._rungs[: number + 1])
            if after is None:
                continue
            if after.fits:
                after = self._undo_unneeded(after, self._rungs[:number])
            gain = after.left[at] - self.base.left[at]
            yield Step(rung, after, changes(self._rungs, self.base.profile, after.profile), at, gain)
            if after.fits:
                return
            if after.deficit < held.deficit:
                held = after

    def _change(self, rung: Rung, state: State) -> State | None:
        """The mildest degree that fits, else the one with the smallest deficit; None where there is nothing to change."""
        best = None
        for profile in rung.degrees(state.profile, state.short):
            after = self.state(profile)
            if not after.fits and rung.with_utilization:
                after = self._at_fitting_utilization(after)
            if after.fits:
                return after
            if best is None or after.deficit < best.deficit:
                best = after
        return best

    def _at_fitting_utilization(self, state: State) -> State:
        """The same at the closest utilization that fits, provided that the highest one that the peak allows does."""

        def holds(hundredths: int) -> bool:
            return "peak" not in self.state(at_utilization(state.profile, hundredths)).lacks

        most = last_true(holds, 1, UTILIZATION_STEPS - 1)
        if most is None or not self.state(at_utilization(state.profile, most)).fits:
            return state
        own = state.profile.gpu_memory_utilization * UTILIZATION_STEPS
        between = range(most, int(own), -1) if own < most else range(most, most + 1)
        fitting = (self.state(at_utilization(state.profile, hundredths)) for hundredths in reversed(between))
        return next(other for other in fitting if other.fits)

    def _combine(self, held: State, rungs: tuple[Rung, ...]) -> State | None:
        """The last rung on top of the others, which are then changed further where that helps."""
        state = self._change(rungs[-1], held)
        nearer = state is not None
        while state is not None and nearer and not state.fits:
            nearer = False
            for rung in rungs:
                further = self._change(rung, state)
                if further is not None and (further.fits or further.deficit < state.deficit):
                    state, nearer = further, True
        return state

    def _undo_unneeded(self, state: State, rungs: tuple[Rung, ...]) -> State:
        """The same without the rungs that are not needed after all; the most expensive is undone first."""
        for rung in reversed(rungs):
            without = self.state(_with_keys(state.profile, self.base.profile, rung.keys))
            if without.fits:
                state = without
        return state


def need_after(
    needs: Amounts, slack: Amounts, short: Shortage, left: int, measured_left: int | None
) -> dict[Shortage, int]:
    """The margins to predict for, after a load with `left` predicted failed for lack of `short`.

    `slack` is the stack's on this card.
    The prediction was off by at least `left`, or by more if the log says how much was missing (`measured_left` below 0).
    """
    missing = 0 if measured_left is None else max(-measured_left, 0)
    need = max(slack[short], 1) + max(left + missing, 0)
    return {**needs, short: max(needs[short], need)}


def changes(rungs: tuple[Rung, ...], base: Profile, profile: Profile) -> tuple[str, ...]:
    """What the ladder has changed, key by key, in the order of its rungs."""
    found = differences(base, profile)
    keys = [key for rung in rungs for key in rung.keys if key in found]
    return tuple(f"{key} {' → '.join(map(_show, found[key]))}" for key in keys)


def _show(value: Any) -> str:
    return ",".join(value) if isinstance(value, list | tuple) else str(value)


def _with_keys(profile: Profile, source: Profile, keys: tuple[str, ...]) -> Profile:
    """`profile` with these keys replaced by those of `source`."""
    found = differences(profile, source)
    return changed(profile, {key: found[key][1] for key in keys if key in found})
