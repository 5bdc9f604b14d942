"""The walk over the ladder: settings that are predicted not to fit are skipped; others are loaded, each in its own processes and folder.

If a load runs out of memory although it was predicted to fit, its log shows by how much the prediction is off; the next step must
leave that much more. Any other failure ends the walk.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

from loadcheck.errors import EXIT_FAIL
from loadcheck.loading import Loaded
from loadcheck.predict.ladder import Ladder, Step, changes, need_after
from loadcheck.predict.stack import Amounts
from loadcheck.preparing import Prepared
from loadcheck.recovery.attempt import Attempt, Gain, gains, measured_left, search_of, short_of
from loadcheck.runs.folder import RunFolder
from loadcheck.runs.private import open_private
from loadcheck.runs.redact import Redactor
from loadcheck.runs.secrets import secrets
from loadcheck.specs.files import changed
from loadcheck.specs.profile import Profile, profile_toml
from loadcheck.specs.settings import flags

MAX_ATTEMPTS = 4
"""Real loads of one recovery; each takes minutes."""
KEPT = "recovered.toml"


@dataclass(frozen=True, slots=True)
class Effects:
    """The side effects of a walk.

    Attributes:
        prepare: predicts a profile from the memory that is free now; may raise what `preparing.prepare` raises.
        load: runs it in a folder of its own.
        echo: shows the user a line.
    """

    prepare: Callable[[Profile], Prepared]
    load: Callable[[Prepared, Path], Loaded]
    echo: Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Walked:
    """A step of the ladder that was considered after `after` attempts, and the number of its own attempt; None if it was skipped."""

    step: Step
    after: int
    attempt: int | None = None

    def to_json(self) -> dict[str, Any]:
        return {**self.step.to_json(), "after_attempt": self.after or None, "attempt": self.attempt}


@dataclass(slots=True)
class Recovery:
    """The state and the result of a walk.

    Attributes:
        base: the load that was requested.
        end: why the walk ended, in words; empty until then.
        kept: the file with the profile that passed, if it is not the requested one.
    """

    base: Prepared
    walked: list[Walked] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)
    end: str = ""
    kept: Path | None = None

    @property
    def passed(self) -> bool:
        return bool(self.attempts) and self.attempts[-1].passed

    @property
    def needed(self) -> bool:
        """Whether anything had to be changed; not so if the requested load ran first and was not short of memory."""
        return bool(self.walked) or not self.attempts

    @property
    def exit_code(self) -> int:
        """That of the last load; 1 if there was none."""
        return self.attempts[-1].loaded.exit_code if self.attempts else EXIT_FAIL

    @property
    def flags(self) -> str:
        """The flags that turn the requested load into the one that passed; empty if it needs none, or none passed."""
        return flags(self.attempts[-1].profile, self.base.plan.profile) if self.passed else ""

    def gains(self) -> tuple[Gain, ...]:
        """The gains from every failed load, or from the refused settings, to the load that passed."""
        if not self.passed or not self.needed:
            return ()
        befores: tuple[Attempt | Prepared, ...] = tuple(self.attempts[:-1]) or (self.base,)
        return tuple(gain for before in befores for gain in gains(before, self.attempts[-1]))

    def to_json(self) -> dict[str, Any]:
        return {
            "needed": self.needed,
            "passed": self.passed,
            "end": self.end,
            "steps": [walked.to_json() for walked in self.walked],
            "attempts": [attempt.to_json() for attempt in self.attempts],
            "gains": [gain.to_json() for gain in self.gains()],
            "flags": self.flags,
            "profile": None if self.kept is None else str(self.kept),
        }


def recover(base: Prepared, effects: Effects, folder: Path, force: bool = False) -> Recovery:
    """Load `base` if it is predicted to fit, or in any case with `force`; if it does not fit, walk the ladder.

    `folder` is that of the first attempt; the others are next to it. Exceptions of `effects.prepare` and `effects.load` are passed on.
    """
    recovery = Recovery(base)
    needs: Amounts | None = None
    if base.prediction.fits or force:
        needs = _attempt(recovery, base, effects, folder, needs)
    else:
        for obstacle in base.prediction.obstacles:
            effects.echo(f"not loaded as asked for: {obstacle.what}")
    while not recovery.end:
        prepared = _next(recovery, effects, needs)
        if prepared is not None:
            needs = _attempt(recovery, prepared, effects, folder, needs)
    _keep(recovery, effects)
    return recovery


def _attempt(
    recovery: Recovery, prepared: Prepared, effects: Effects, folder: Path, needs: Amounts | None
) -> Amounts | None:
    """Run one load; returns what the next one must be predicted to leave, which is more if this one was short of memory."""
    number = len(recovery.attempts) + 1
    what = flags(prepared.plan.profile, recovery.base.plan.profile) or "as asked for"
    effects.echo(f"attempt {number}: {what}")
    loaded = effects.load(prepared, _folder(folder, number))
    attempt = Attempt(number, prepared, loaded, None if prepared.prediction.account is None else short_of(loaded))
    recovery.attempts.append(attempt)
    if attempt.passed:
        recovery.end = "the load passed"
    elif attempt.short is None:
        recovery.end = f"attempt {number} failed for something that other settings would not fix"
    elif number == MAX_ATTEMPTS:
        recovery.end = f"{number} loads have failed for want of memory"
    else:
        search = search_of(prepared)
        left = search.left(prepared.plan.profile, prepared.prediction)[attempt.short]
        measured = measured_left(attempt, attempt.short)
        slack = search.stack.slack(prepared.case.gpu)
        return need_after(needs or slack, slack, attempt.short, left, measured)
    return needs


def _next(recovery: Recovery, effects: Effects, needs: Amounts | None) -> Prepared | None:
    """The first step that is predicted to fit in the memory that is free now; if there is none, None, and the walk ends."""
    now = effects.prepare(recovery.base.plan.profile)
    ladder = Ladder(search_of(now), now.plan.profile, needs)
    steps = list(ladder.climb())
    tried = len(recovery.attempts)
    recovery.walked += [Walked(step, tried) for step in steps]
    if steps and steps[-1].fits:
        recovery.walked[-1] = replace(recovery.walked[-1], attempt=tried + 1)
        return effects.prepare(steps[-1].state.profile)
    others = [obstacle.what for obstacle in ladder.base.prediction.obstacles if obstacle.short is None]
    recovery.end = (
        f"memory is not what is wrong: {others[0]}" if others else "no step of the ladder is predicted to fit"
    )
    return None


def _folder(first: Path, number: int) -> Path:
    """The folder of an attempt: the first one's, or the next free name next to it. No run is overwritten."""
    if number == 1:
        return first
    if not first.name:  # "." and "/" have none
        first = first.resolve()
    names = (first.with_name(f"{first.name}-attempt{suffix}") for suffix in count(number))
    return next(path for path in names if not RunFolder(path).record_path.exists())


def _keep(recovery: Recovery, effects: Effects) -> None:
    """Write the settings that passed, if they are not the requested ones."""
    base = recovery.base.plan.profile
    if not recovery.passed or recovery.attempts[-1].profile == base:
        return
    attempt = recovery.attempts[-1]
    path = attempt.loaded.folder.path / KEPT
    found = changed(attempt.profile, {"description": f"{base.description}; recovered: {recovery.flags}"})
    try:
        steps = changes(search_of(attempt.prepared).stack.rungs, base, attempt.profile)
        comment = f"written by loadcheck load --recover: {'; '.join(steps)}"
        with open_private(path, "w", encoding="utf-8") as file:
            file.write(Redactor(secrets(os.environ)).text(profile_toml(found, comment)))
    except OSError as error:
        effects.echo(f"{path}: could not be written ({error.strerror}); the flags above say the same")
        return
    recovery.kept = path
