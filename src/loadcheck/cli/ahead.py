"""Start the engine's process and the reading of the weights as soon as the command line is parsed, before the machine is checked."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from loadcheck import stacks, weights
from loadcheck.cli.chosen import chosen_profile
from loadcheck.device import has_device
from loadcheck.errors import LoadcheckError
from loadcheck.plan import make_plan
from loadcheck.preparing import GPU_PROFILE
from loadcheck.running import child_environment
from loadcheck.runs.ahead import AHEAD, Ahead, ahead
from loadcheck.runs.secrets import TOKEN_VARIABLES
from loadcheck.specs.profile import Profile
from loadcheck.stacks import ahead_engine_of


@contextmanager
def started_ahead(profile: str | None, changed: dict[str, Any]) -> Iterator[Ahead | None]:
    """The process that will load this profile; None if it is started later, as usual. It ends with the block."""
    chosen = _chosen(profile, changed) if has_device() else None
    engine = None if chosen is None else ahead_engine_of(chosen)
    if chosen is None or engine is None:
        yield None
        return
    # The hub's tokens are for the earlier step; by now the weights are local.
    env = {name: value for name, value in child_environment().items() if name not in TOKEN_VARIABLES}
    env |= stacks.load_variables(chosen)
    command = [sys.executable, "-m", "loadcheck.engines.child", AHEAD, engine, str(os.getpid())]
    with ahead(command, env) as process:
        yield process


def begin_reading(profile: str | None, changed: dict[str, Any]) -> None:
    """Start to read the weights that will probably be loaded into memory; only weights in our own cache, and only if there is a GPU."""
    chosen = _chosen(profile, changed) if has_device() else None
    if chosen is None:
        return
    with suppress(LoadcheckError):  # reported when the load is prepared
        folder = weights.cached_folder(make_plan(chosen))
        if folder is not None:
            stacks.begin_reading(chosen, folder)


def if_for(process: Ahead | None, profile: Profile) -> Ahead | None:
    """The process, if its engine loads this profile; without a usable GPU the CPU's does, whatever device files there are."""
    return None if ahead_engine_of(profile) is None else process


def _chosen(profile: str | None, changed: dict[str, Any]) -> Profile | None:
    """The profile that will probably be loaded; None if it is refused, which is reported when the load is prepared."""
    try:
        return chosen_profile(profile or GPU_PROFILE, changed)
    except LoadcheckError:
        return None
