"""The known GPUs (env/gpus.toml), each number with its evidence, and the resolution of their names."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from loadcheck.errors import BadInput, Problem
from loadcheck.specs.files import Spec, changed, env_dir, load
from loadcheck.units import to_gib


class Fact(Spec, frozen=True, kw_only=True):
    """A number and where it was seen."""

    value: int
    evidence: str


Unknown = Literal["unknown"]

_BRANDS = ("nvidia", "geforce", "tesla", "grid")
"""Words that may precede a card's name: one driver reports "Tesla V100-SXM2-16GB", another "NVIDIA Tesla …", and people type neither."""


class Gpu(Spec, frozen=True, kw_only=True):
    """One kind of card, as CUDA reports it.

    Attributes:
        names: the whole device names that drivers report for it.
        total_bytes: the total of `cudaMemGetInfo`.
        other_totals: totals of cards that report the same name with other memory chips.
        used_before_bytes: total - free with a CUDA context and nothing else.
        non_torch_bytes: what vLLM's profile run counts as non_torch memory in a fresh process.
        graph_node_bytes: the driver's memory for one node of a CUDA graph.
        inline_ecc: whether error correction takes a sixteenth of the memory, and `total_bytes` is with it on (GDDR6; HBM has separate chips).
        refused: why this stack cannot use the card; None if it can.
    """

    names: tuple[str, ...]
    compute_capability: str
    total_bytes: Fact | Unknown = "unknown"
    other_totals: tuple[Fact, ...] = ()
    used_before_bytes: Fact | Unknown = "unknown"
    non_torch_bytes: Fact | Unknown = "unknown"
    graph_node_bytes: Fact | Unknown = "unknown"
    inline_ecc: bool = False
    refused: str | None = None


TOTAL_SLACK = 0.02
"""Share by which the total of one kind of card varies with driver and system: 14.56 to 14.75 GiB on a T4, 23.55 to 23.99 on an RTX 4090
(public logs; the highest is WSL2's). The nearest two kinds of one compute capability, L4 and RTX 4090, are 6.6 % apart."""


WITHOUT_ECC = 16 / 15
"""The total of a card with `inline_ecc` with error correction off (nvidia-smi -e 0), as a share of its total with it on."""


class Gpus(Spec, frozen=True, kw_only=True):
    """env/gpus.toml, by our own short name of each card."""

    gpus: dict[str, Gpu]
    capabilities: dict[str, str]
    """Compute capability of cards that nobody measured, by a pattern of the whole device name without its brand; the first match counts."""


def known_bytes(fact: Fact | Unknown) -> int | None:
    """A fact's value; None if unknown."""
    return fact.value if isinstance(fact, Fact) else None


@cache
def _load() -> Gpus:
    return load(Gpus, env_dir() / "gpus.toml")


def load_gpus() -> dict[str, Gpu]:
    return _load().gpus


def capability_of(device_name: str) -> str | None:
    """The compute capability of a card by the family of its name; None for an unknown family."""
    part = _SLICE.fullmatch(device_name) or _SHARED.fullmatch(device_name)
    name = _without_brand(part["card"] if part else device_name)
    families = _load().capabilities.items()
    return next((found for pattern, found in families if re.fullmatch(pattern, name, re.IGNORECASE)), None)


_OTHER_MAKER = re.compile(
    r"\b(?:AMD|Radeon|Instinct|MI\d{3}X?|Intel|Arc|Gaudi|Ascend|Apple|MLU\d*|Moore Threads)\b", re.IGNORECASE
)


def is_of_another_maker(device_name: str) -> bool:
    """Whether a device is another maker's than NVIDIA's, by its name."""
    return _OTHER_MAKER.search(device_name) is not None and "nvidia" not in device_name.lower()


_GB_IN_NAME = re.compile(r"(?<![\d.])(\d{1,3})GB\b(?! of)")
_OF_ALL_MEMORY = re.compile(r"\bG[HB]\d{3}\b")
"""Grace Hopper and Grace Blackwell: the number in the name is the processor's memory."""
GB_IN_NAME_SHARE = (0.85, 1.02)
"""GiB that CUDA reports, as a share of the GB in a name: 15.77 of 16 (V100), 39.4 of 40, 79.2 of 80; 14.75 of 16 with ECC."""


def gib_in_name(device_name: str) -> tuple[float, float] | None:
    """The lowest and highest totals for a name that states its memory; None for other names."""
    match = _GB_IN_NAME.search(device_name)
    if match is None or _OF_ALL_MEMORY.search(device_name) or _SLICE.fullmatch(device_name):
        return None
    return GB_IN_NAME_SHARE[0] * int(match[1]), GB_IN_NAME_SHARE[1] * int(match[1])


def find_gpu(device_name: str) -> str | None:
    """The key in env/gpus.toml of the card that CUDA calls `device_name`; None for a card that is not there.

    The whole name must match: an L40 is not an L4, and a laptop's RTX 4090 has 16 GB.
    """
    wanted = _without_brand(device_name)
    known = {_without_brand(name): key for key, gpu in load_gpus().items() for name in gpu.names}
    return known.get(wanted)


_SLICE = re.compile(r"(?P<card>.+?) MIG (?P<slices>\d)g\.(?P<gb>\d{1,3})gb\b.*", re.IGNORECASE)
_SHARED = re.compile(r"(?P<card>.+?)[DXL]?-\d{1,3}(?:-\d{1,2})?[QCAB]", re.ASCII)
"""A share of a card in a virtual machine (NVIDIA vGPU): "NVIDIA A10-24Q", "GRID A100D-80C"."""
SLICE_SHARE = (0.8, 1.02)
"""GiB of a MIG slice, as a share of the GB in its name: 4.75 of 5, 19.5 of 20, 16.0 of 18 (NVIDIA's MIG user guide, supported
profiles; a slice of an H200 has the smallest share)."""


@dataclass(frozen=True, slots=True)
class NamedCard:
    """What a device name alone tells of a card.

    Attributes:
        key: its key in env/gpus.toml.
        gib: the lowest and highest totals of each memory size; empty if unknown.
        is_slice: whether the name is that of a MIG slice of the card.
        gib_without_ecc: the same with error correction off; None if that changes nothing.
    """

    key: str
    gpu: Gpu
    gib: tuple[tuple[float, float], ...]
    is_slice: bool = False
    gib_without_ecc: tuple[float, float] | None = None


def named_card(device_name: str) -> NamedCard | None:
    """The facts for the name of a card or of its MIG slice; None for a card that is not in env/gpus.toml."""
    part = _SLICE.fullmatch(device_name)
    key = find_gpu(part["card"] if part else device_name)
    if key is None:
        return None
    gpu = load_gpus()[key]
    if part:
        low, high = (share * int(part["gb"]) for share in SLICE_SHARE)
        return NamedCard(key, gpu, ((low, high),), is_slice=True)
    totals = [fact.value for fact in (gpu.total_bytes, *gpu.other_totals) if isinstance(fact, Fact)]
    around = tuple(_around(total) for total in totals)
    return NamedCard(key, gpu, around, gib_without_ecc=_around(totals[0] * WITHOUT_ECC) if gpu.inline_ecc else None)


def _around(total_bytes: float) -> tuple[float, float]:
    """The lowest and highest GiB of a card with this total."""
    return to_gib(total_bytes) * (1 - TOTAL_SLACK), to_gib(total_bytes) * (1 + TOTAL_SLACK)


def gpu_key(name: str) -> str | None:
    """The key in env/gpus.toml of a card, given by that key (in any spelling) or by its device name; None for an unknown card."""
    by_key = {_typed(key): key for key in load_gpus()}
    by_name = {_typed(_without_brand(name)): key for key, gpu in load_gpus().items() for name in gpu.names}
    wanted = _typed(_without_brand(name))
    return by_key.get(wanted) or by_name.get(wanted)


def gpu_named(name: str) -> tuple[str, Gpu]:
    """The entry for a key of the table or a device name, or whatever else the name tells; BadInput for an unknown card.

    For a card of another memory size, a MIG slice, and a card of which only the family is known, memory is "unknown"; the user can give it.
    """
    table = load_gpus()
    name = _unlabelled(name)
    key = gpu_key(name)
    if key is not None:
        return key, table[key]
    found = _of_size(name) or _slice_of(name) or _of_family(name)
    if found is None:
        raise BadInput(Problem("--gpu", f"there is no GPU {name!r} in env/gpus.toml", _advice(name, table)))
    return found


_SIZED = re.compile(r"(?P<card>.*?[^\s_-])[\s_-]*\(?(?P<gb>\d{1,3})\s?(?:GB?|GiB)\)?", re.IGNORECASE)
_TYPED_SLICE = re.compile(r"(?P<card>.+?)[\s_-]+(?:MIG[\s_-]+)?\d(?:g|c\.\dg)\.\d{1,3}gb(?:\+\S*)?", re.IGNORECASE)
_NO_MEMORY: dict[str, Any] = {"total_bytes": "unknown", "other_totals": (), "used_before_bytes": "unknown"}


def _relatives(card: str) -> list[str]:
    """The keys for a card's name without its memory size: its own, or those of its family (V100-16GB for V100)."""
    if (key := gpu_key(card)) is not None:
        return [key]
    wanted = _typed(_without_brand(card))
    return [key for key in load_gpus() if _typed(key.partition("-")[0]) == wanted]


def _of_size(name: str) -> tuple[str, Gpu] | None:
    """The entry for a name with a memory size ("4090 48GB", "2080 Ti 22G"); None for other names and unknown cards."""
    match = _SIZED.fullmatch(name.strip())
    keys = _relatives(match["card"]) if match else []
    for key in keys:
        gpu = load_gpus()[key]
        for fact in (gpu.total_bytes, *gpu.other_totals):
            if isinstance(fact, Fact) and match and _is_of(fact.value, int(match["gb"])):
                return key, changed(gpu, {"total_bytes": {"value": fact.value, "evidence": fact.evidence}})
    return (keys[0], changed(load_gpus()[keys[0]], _NO_MEMORY)) if keys else None


def _is_of(total_bytes: int, gb: int) -> bool:
    low, high = GB_IN_NAME_SHARE
    return low * gb <= to_gib(total_bytes) <= high * gb


def _slice_of(name: str) -> tuple[str, Gpu] | None:
    """A MIG slice by its profile ("A100 1g.5gb"): it has the card's compute capability, and nothing else is known."""
    match = _TYPED_SLICE.fullmatch(name.strip())
    capability = None if match is None else _capability_of_any(match["card"])
    return None if capability is None else (name, Gpu(names=(name,), compute_capability=capability))


def _of_family(name: str) -> tuple[str, Gpu] | None:
    """A card that nobody measured, by the family of its device name. A bare family (A100) is ambiguous, so it gives None."""
    capability = capability_of(name) or capability_of(re.sub(r"[-_]", " ", name))
    if capability is None or _relatives(name):
        return None
    return name, Gpu(names=(name,), compute_capability=capability)


def _capability_of_any(card: str) -> str | None:
    keys = _relatives(card)
    return load_gpus()[keys[0]].compute_capability if keys else capability_of(card)


_BRAND = re.compile(rf"^(?:(?:{'|'.join(_BRANDS)})[\s_-]+(?=\S))+")


def _without_brand(name: str) -> str:
    return _BRAND.sub("", " ".join(name.lower().split()), count=1)


_LISTED = re.compile(r"(?:GPU \d+: (?P<listed>.+?) \(UUID: \S+\)|(?P<counted>.+):1)", re.IGNORECASE)


def _unlabelled(name: str) -> str:
    """The name in a line of `nvidia-smi -L`, or in a count of one card ("T4:1"), as SkyPilot writes it."""
    match = _LISTED.fullmatch(name.strip())
    return name if match is None else match["listed"] or match["counted"]


def _typed(name: str) -> str:
    """A card's name in its shortest spelling: "4090" is the RTX4090, and "A6000" the RTX A6000."""
    return _compact(name).removeprefix("rtx")


def _compact(name: str) -> str:
    """A name without case and separators: "RTX 4090", "rtx-4090" and "RTX4090" are the same."""
    return re.sub(r"[\s_-]+", "", name.lower())


def _advice(name: str, table: dict[str, Gpu]) -> str:
    """Suggests the cards of a family (A100), or the card with swapped characters (RTX4900), or else all; one other character is another card."""
    words = set(re.split(r"[\s_-]+", name.lower()))
    family = [key for key in table if key.lower().partition("-")[0] in words]
    swapped = [key for key in table if sorted(_compact(key)) == sorted(_compact(name))]
    if family:
        return f"its family there: {', '.join(family)}"
    if swapped:
        return f"did you mean {swapped[0]}?"
    described = "--gpu-total-bytes, --gpu-free-bytes, --compute-capability"
    return f"known: {', '.join(table)}; or describe it (predict, fit): {described}"
