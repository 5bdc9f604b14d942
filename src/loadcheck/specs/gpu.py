"""What is known of each GPU (env/gpus.toml), each number with its evidence."""

from __future__ import annotations

from functools import cache
from typing import Literal

from loadcheck.errors import BadInput, Problem, suggestion
from loadcheck.specs.files import Spec, env_dir, load


class Fact(Spec, frozen=True, kw_only=True):
    """A number and where it was seen."""

    value: int
    evidence: str


Unknown = Literal["unknown"]


class Gpu(Spec, frozen=True, kw_only=True):
    """One kind of card, as CUDA reports it.

    Attributes:
        names: substrings of the device name that CUDA reports, the most telling first.
        total_bytes: the total of `cudaMemGetInfo`.
        used_before_bytes: total - free once a CUDA context exists and nothing else does.
        non_torch_bytes: what vLLM's profile counts as non_torch memory in a fresh process.
        graph_node_bytes: the driver's memory for one node of a CUDA graph.
        refused: why this stack cannot use the card; None where it can.
    """

    names: tuple[str, ...]
    compute_capability: str
    total_bytes: Fact | Unknown = "unknown"
    used_before_bytes: Fact | Unknown = "unknown"
    non_torch_bytes: Fact | Unknown = "unknown"
    graph_node_bytes: Fact | Unknown = "unknown"
    refused: str | None = None


class Gpus(Spec, frozen=True, kw_only=True):
    """env/gpus.toml, by our own short name of each card."""

    gpus: dict[str, Gpu]


def known_bytes(fact: Fact | Unknown) -> int | None:
    """A fact's value; None where it is unknown."""
    return fact.value if isinstance(fact, Fact) else None


@cache
def load_gpus() -> dict[str, Gpu]:
    return load(Gpus, env_dir() / "gpus.toml").gpus


def find_gpu(device_name: str) -> str | None:
    """The key in env/gpus.toml of the card that CUDA calls `device_name`; None for a card that is not there."""
    wanted = device_name.lower()
    matches = [(len(name), key) for key, gpu in load_gpus().items() for name in gpu.names if name.lower() in wanted]
    return max(matches)[1] if matches else None


def gpu_key(name: str) -> str | None:
    """The key in env/gpus.toml of a card called by that key, in any case, or by its device name; None for an unknown one."""
    by_key = {key.lower(): key for key in load_gpus()}
    return by_key.get(name.lower()) or find_gpu(name)


def gpu_named(name: str) -> tuple[str, Gpu]:
    """The entry for a key of the table or a device name; BadInput for an unknown one."""
    table = load_gpus()
    key = gpu_key(name)
    if key is None:
        raise BadInput(Problem("gpu", f"there is no GPU {name!r} in env/gpus.toml", suggestion(name, table)))
    return key, table[key]
