"""The engine's process, started as soon as the command line is understood: it imports while we look at the machine."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from loadcheck.cli.chosen import chosen_profile
from loadcheck.device import has_device
from loadcheck.errors import LoadcheckError
from loadcheck.loading import child_environment
from loadcheck.preparing import GPU_PROFILE
from loadcheck.runs.ahead import AHEAD, Ahead, ahead
from loadcheck.runs.secrets import TOKEN_VARIABLES
from loadcheck.specs.profile import Profile
from loadcheck.stacks import ahead_engine_of


@contextmanager
def begun(profile: str | None, changed: dict[str, Any]) -> Iterator[Ahead | None]:
    """The process that is to load this profile; None where it begins when its step comes. It ends with the block."""
    engine = _engine(profile or GPU_PROFILE, changed)
    if engine is None:
        yield None
        return
    # The hub's tokens are for the step before: the weights are local by then.
    env = {name: value for name, value in child_environment().items() if name not in TOKEN_VARIABLES}
    command = [sys.executable, "-m", "loadcheck.engines.child", AHEAD, engine, str(os.getpid())]
    with ahead(command, env) as process:
        yield process


def fitting(process: Ahead | None, profile: Profile) -> Ahead | None:
    """The process, where it is of the engine that loads this profile: without a usable GPU, whatever files there are, the CPU's does."""
    return None if ahead_engine_of(profile) is None else process


def _engine(profile: str, changed: dict[str, Any]) -> str | None:
    """The module that is likely to load it; None without a GPU."""
    if not has_device():
        return None
    try:
        return ahead_engine_of(chosen_profile(profile, changed))
    except LoadcheckError:  # said where the load is prepared
        return None
