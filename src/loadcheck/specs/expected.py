"""Golden ranges: the figures of a profile on one GPU, with the runs that they come from (env/expected)."""

from __future__ import annotations

from functools import cache
from typing import Annotated, Literal

from msgspec import Meta

from loadcheck.figures import Value, specs_by_name
from loadcheck.specs.files import Spec, env_dir, load


class Basis(Spec, frozen=True, kw_only=True):
    """A run that a range comes from."""

    id: str
    date: str
    gpu: str
    versions: str
    source: str
    commit: str | None = None


class Range(Spec, frozen=True, kw_only=True):
    """The allowed values of a figure, at the log's precision: exactly one value, or low to high, both included.

    Attributes:
        host: the fact of the host that the figure also depends on, such as "ram"; None if it is the same on any host.
    """

    exactly: str | int | float | None = None
    low: float | None = None
    high: float | None = None
    host: Literal["memory", "ram", "sequences"] | None = None
    why: Annotated[str, Meta(min_length=1)]

    def __post_init__(self) -> None:
        if (self.exactly is None) == (self.low is None and self.high is None):
            raise ValueError("needs either `exactly`, or `low` and `high`; give one of the two")
        if self.exactly is None and (self.low is None or self.high is None or self.low > self.high):
            raise ValueError("`low` and `high` are both needed, low first; give both")


class Expected(Spec, frozen=True, kw_only=True):
    """The golden ranges of one profile on one GPU, by figure name."""

    profile: str
    gpu: str
    basis: Annotated[tuple[Basis, ...], Meta(min_length=1)]
    settings: dict[str, Value | bool]
    """The profile's values that the ranges hold for, by dotted key. A load with other settings is not judged by them."""
    figures: dict[str, Range]

    def __post_init__(self) -> None:
        unknown = [name for name in self.figures if name not in specs_by_name()]
        if unknown:
            raise ValueError(f"no such figure: {', '.join(unknown)}; the names are those of `parse --json`")


@cache
def load_expected(profile: str, gpu: str) -> Expected | None:
    """The ranges for this profile on this GPU (a key of env/gpus.toml, or `cpu`); None if there are none."""
    path = env_dir() / "expected" / f"{profile}@{gpu.lower()}.toml"
    return load(Expected, path) if path.exists() else None
