"""A profile: which model to load, how, with which adapters, and what to do after the load."""

from __future__ import annotations

from loadcheck.specs.profile.reading import (
    load_profile,
    load_profiles,
    profile_names,
    profile_toml,
    settings_by_key,
    with_flags,
)
from loadcheck.specs.profile.record import (
    LINEAR_MODULES,
    MAX_COUNT,
    OF_VLLM_ALONE,
    VLLM_ALONE,
    VLLM_LORA_RANKS,
    Adapters,
    Count,
    Profile,
)

__all__ = [
    "LINEAR_MODULES",
    "MAX_COUNT",
    "OF_VLLM_ALONE",
    "VLLM_ALONE",
    "VLLM_LORA_RANKS",
    "Adapters",
    "Count",
    "Profile",
    "load_profile",
    "load_profiles",
    "profile_names",
    "profile_toml",
    "settings_by_key",
    "with_flags",
]
