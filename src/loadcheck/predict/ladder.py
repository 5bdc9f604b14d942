"""The ladder of settings for a load that is short of memory: every rung with what it gains, cheapest first.

Which rungs there are, and in which order, the stack says (`Stack.rungs`).

A rung is turned no further than it must be, and is tried alone before it is tried on top of the rungs below it; where several are
needed, those that turn out not to be are given back. A step fits if as much is left as the prediction may be off, or more where a load
has shown that the prediction is off by more (`need_after`).

The peak here is that of a load, which answers once: that is what `--recover` fixes and measures, with as little change as will do. `fit`,
which proposes settings to work with, leaves room for a full batch too; where a load has none, its prediction warns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from loadcheck.predict.account import Prediction
from loadcheck.predict.search import UTILIZATION_STEPS, Search, at_utilization, last_true
from loadcheck.predict.stack import Amounts, Rung
from loadcheck.specs.files import changed, flat
from loadcheck.specs.profile import Profile
from loadcheck.specs.trouble import Shortage
from loadcheck.units import to_gib


@dataclass(frozen=True, slots=True)
class State:
    """Some settings, and how they stand.

    Attributes:
        left: what is left of everything that can be short; negative where it is.
        lacks: what is missing of what a load must have left, in the order in which the engine comes to it.
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
        """What the engine will be short of first; None where it fits, or where memory is not what is wrong."""
        obstacles = (obstacle.short for obstacle in self.prediction.obstacles if obstacle.short is not None)
        return next(iter(self.lacks), next(obstacles, None))

    @property
    def deficit(self) -> tuple[int, int]:
        """Bytes and tokens that are missing: the fewer, the nearer to a load."""
        return sum(lack for short, lack in self.lacks.items() if short != "batch"), self.lacks.get("batch", 0)


@dataclass(frozen=True, slots=True)
class Step:
    """A rung, turned as far as it had to be, or could be.

    Attributes:
        state: the settings after it, and after the rungs below where one alone does not suffice.
        changes: from the settings that were asked for, such as "conservativeness 1.0 → 0.5".
        at: what the settings asked for are short of.
        gain: how much more of that is left than with the settings asked for: bytes, or tokens of a batch.
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
    """The ladder from one profile on one card. `needs` is what a load must have left; default: the stack's slack on the card."""

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
        """Every rung up to the first that fits, none where memory is not what is wrong."""
        at = self.base.short
        if at is None or any(obstacle.short is None for obstacle in self.base.prediction.obstacles):
            return
        held = self.base
        for number, rung in enumerate(self._rungs):
            after = self._turn(rung, self.base)
            if held is not self.base and not (after is not None and after.fits):
                after = self._on_top(held, self._rungs[: number + 1])
            if after is None:
                continue
            if after.fits:
                after = self._give_back(after, self._rungs[:number])
            gain = after.left[at] - self.base.left[at]
            yield Step(rung, after, changes(self._rungs, self.base.profile, after.profile), at, gain)
            if after.fits:
                return
            if after.deficit < held.deficit:
                held = after

    def _turn(self, rung: Rung, state: State) -> State | None:
        """The mildest degree that fits, else the one that lacks least; None where there is nothing to turn."""
        best = None
        for profile in rung.degrees(state.profile, state.short):
            after = self.state(profile)
            if not after.fits and rung.with_utilization:
                after = self._at_its_utilization(after)
            if after.fits:
                return after
            if best is None or after.deficit < best.deficit:
                best = after
        return best

    def _at_its_utilization(self, state: State) -> State:
        """The same at the utilization nearest to its own that fits, if the highest that the peak leaves room for does."""

        def holds(hundredths: int) -> bool:
            return "peak" not in self.state(at_utilization(state.profile, hundredths)).lacks

        most = last_true(holds, 1, UTILIZATION_STEPS - 1)
        if most is None or not self.state(at_utilization(state.profile, most)).fits:
            return state
        own = state.profile.gpu_memory_utilization * UTILIZATION_STEPS
        between = range(most, int(own), -1) if own < most else range(most, most + 1)
        fitting = (self.state(at_utilization(state.profile, hundredths)) for hundredths in reversed(between))
        return next(other for other in fitting if other.fits)

    def _on_top(self, held: State, rungs: tuple[Rung, ...]) -> State | None:
        """The last of the rungs on top of the others, and these turned further where that now helps."""
        state = self._turn(rungs[-1], held)
        nearer = state is not None
        while state is not None and nearer and not state.fits:
            nearer = False
            for rung in rungs:
                further = self._turn(rung, state)
                if further is not None and (further.fits or further.deficit < state.deficit):
                    state, nearer = further, True
        return state

    def _give_back(self, state: State, rungs: tuple[Rung, ...]) -> State:
        """The same without the rungs that are not needed after all, the dearest given back first."""
        for rung in reversed(rungs):
            without = self.state(_with_keys(state.profile, self.base.profile, rung.keys))
            if without.fits:
                state = without
        return state


def need_after(
    needs: Amounts, slack: Amounts, short: Shortage, left: int, measured_left: int | None
) -> dict[Shortage, int]:
    """What a load must be predicted to have left, after one that failed for want of it with `left` predicted.

    `slack` is the stack's on this card.
    The prediction was off by at least `left`; by more, where the log says how much was missing (`measured_left` below 0).
    """
    missing = 0 if measured_left is None else max(-measured_left, 0)
    need = max(slack[short], 1) + max(left + missing, 0)
    return {**needs, short: max(needs[short], need)}


def changes(rungs: tuple[Rung, ...], base: Profile, profile: Profile) -> tuple[str, ...]:
    """What the ladder has changed, key by key, in the order of its rungs."""
    before, after = flat(base), flat(profile)
    keys = [key for rung in rungs for key in rung.keys if before.get(key) != after.get(key)]
    return tuple(f"{key} {_show(before.get(key))} → {_show(after.get(key))}" for key in keys)


def _show(value: Any) -> str:
    return ",".join(value) if isinstance(value, list | tuple) else str(value)


def _with_keys(profile: Profile, source: Profile, keys: tuple[str, ...]) -> Profile:
    """`profile` with these keys as they are in `source`."""
    mine, other = flat(profile), flat(source)
    return changed(profile, {key: other.get(key) for key in keys if mine.get(key) != other.get(key)})
