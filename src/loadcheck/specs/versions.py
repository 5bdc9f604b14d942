"""The pinned versions (env/versions.toml)."""

from __future__ import annotations

from functools import cache

from packaging.version import InvalidVersion, Version

from loadcheck.specs.files import Spec, env_dir, load


class Pin(Spec, frozen=True, kw_only=True):
    """One package's pinned version, and the reason."""

    version: str
    source: str
    also: tuple[str, ...] = ()
    """Further versions that were checked to load the same bytes; named in `source`."""


class Versions(Spec, frozen=True, kw_only=True):
    """Every pin by package name; `cuda` is the toolkit that torch is built for."""

    pins: dict[str, Pin]

    def version(self, package: str) -> str:
        return self.pins[package].version


@cache
def load_versions() -> Versions:
    return load(Versions, env_dir() / "versions.toml")


def release_of(version: str) -> str:
    """The release that a version is a build of: 0.7.2 for 0.7.2+cu118, 0.7.2.dev5 and 0.7.2.post1; an invalid version is returned as is."""
    numbers = release_numbers(version)
    return version if numbers is None else ".".join(map(str, numbers))


def release_numbers(version: str) -> tuple[int, ...] | None:
    """The numbers of a release (PEP 440), such as (0, 7, 2) for 0.7.2.post1; None for an invalid version."""
    try:
        return Version(version).release
    except InvalidVersion:
        return None


def is_release(version: str, pinned: str) -> bool:
    """Whether `version` is the pinned release, without a build or built for the pinned CUDA (PEP 440: a local version after a plus)."""
    base, _, build = version.partition("+")
    return base == pinned and build in ("", "cu" + load_versions().version("cuda").replace(".", ""))
