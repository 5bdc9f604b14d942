"""The pins that a run asserts (env/versions.toml)."""

from __future__ import annotations

from functools import cache

from loadcheck.specs.files import Spec, env_dir, load


class Pin(Spec, frozen=True, kw_only=True):
    """One package's pinned version, and why that one."""

    version: str
    source: str
    also: tuple[str, ...] = ()
    """Further versions that load the same bytes, each seen to; named in `source`."""


class Versions(Spec, frozen=True, kw_only=True):
    """Every pin by package name; `cuda` is the toolkit that torch is built for."""

    pins: dict[str, Pin]

    def version(self, package: str) -> str:
        return self.pins[package].version


@cache
def load_versions() -> Versions:
    return load(Versions, env_dir() / "versions.toml")
