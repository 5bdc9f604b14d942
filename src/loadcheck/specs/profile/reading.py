"""Reads profiles, with the settings of flags applied, and writes them."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

from loadcheck.errors import BadInput, Problem, suggestion
from loadcheck.specs.files import changed, env_dir, flat, read_toml, set_at, to_data, to_toml, validate
from loadcheck.specs.profile.record import VLLM_ALONE, Profile


def settings_by_key(profile: Profile) -> dict[str, Any]:
    """A profile's settings by dotted key, without its name and description."""
    return {key: value for key, value in flat(profile).items() if key not in ("name", "description")}


def profile_names() -> list[str]:
    return sorted(path.stem for path in (env_dir() / "profiles").glob("*.toml"))


@cache
def load_profiles() -> tuple[Profile, ...]:
    """Every profile of env/profiles, unchanged."""
    return tuple(load_profile(name) for name in profile_names())


def load_profile(name: str, overrides: dict[str, Any] | None = None) -> Profile:
    """The profile called `name` (or in the file `name`), with the dotted keys of `overrides` applied.

    BadInput for an unknown name (with a suggestion), and for every wrong key or value at once. `adapters = false` means none.
    """
    path = Path(name) if name.endswith(".toml") else env_dir() / "profiles" / f"{name}.toml"
    if not name.endswith(".toml") and name not in profile_names():
        if os.path.isfile(name):  # noqa: PTH113: False for a name that is too long or invalid
            raise BadInput(Problem(name, "a profile's file ends in .toml", "rename it, or give a profile's name"))
        raise BadInput(Problem("profile", f"there is no profile {name!r}", suggestion(name, profile_names())))
    data = read_toml(path)
    data.setdefault("name", path.stem)
    if data.get("adapters") is False:
        data["adapters"] = None
    for key, value in _with_implied(overrides or {}).items():
        set_at(data, key, value)
    return validate(Profile, data, str(path) + (" with the flags given" if overrides else ""))


def with_flags(profile: Profile, overrides: dict[str, Any]) -> Profile:
    """The profile with the dotted keys of flags applied; BadInput for every wrong key or value at once."""
    return changed(profile, _with_implied(overrides), f"profile {profile.name} with the flags given")


def _with_implied(overrides: dict[str, Any]) -> dict[str, Any]:
    """The overrides; with loader = "vllm", also the values that vLLM alone requires."""
    return {**VLLM_ALONE, **overrides} if overrides.get("loader") == "vllm" else overrides


def profile_toml(profile: Profile, comment: str) -> str:
    """A profile as TOML text, which `load_profile` reads back."""
    data = to_data(profile)
    if profile.adapters is None:
        data["adapters"] = False
    return f"# {comment}\n{to_toml(data)}"
