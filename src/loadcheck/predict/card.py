"""The card of a prediction: from the table, or as this machine's driver reports it."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, replace

from loadcheck.device import GpuDevice, read_gpu
from loadcheck.errors import BadInput, Problem, UnsupportedMachine
from loadcheck.specs.files import changed
from loadcheck.specs.gpu import Gpu, find_gpu, gpu_named, known_bytes, load_gpus
from loadcheck.units import GIB, MIB, show_bytes

# vllm/config.py and unsloth_zoo/vllm_utils.py:821 need 7.0; the torch 2.5.1 wheels for CUDA 12.4 contain code up to sm_90.
MIN_CAPABILITY = 7.0
MAX_CAPABILITY = 9.0
ANOTHER_CARD = "use a card of compute capability 7.5 to 9.0"

MIN_TOTAL_BYTES = GIB
MIN_FREE_BYTES = MIB
"""A smaller number is probably meant in GiB, without its unit."""

# Assumed non_torch by architecture, for cards without their own: T4 48 MiB, A100 0.09 to 0.12 GiB, A10G 0.05 and RTX 4090 D 0.07 GiB,
# H100 and H200 160 MiB (env/gpus.toml, public logs).
_NON_TORCH_BYTES = {7: 48 * MIB, 8: 105 * MIB, 9: 160 * MIB}
_NON_TORCH_ADA_BYTES = 60 * MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """A GPU with nothing on it but a CUDA context.

    Attributes:
        free_bytes: from cudaMemGetInfo, right before the load.
        non_torch_bytes: what vLLM's profile will report as non_torch; None where it is unknown for this card.
        graph_node_bytes: the driver's memory per node of a CUDA graph; None where it is unknown.
    """

    name: str
    compute_capability: float
    total_bytes: int
    free_bytes: int
    non_torch_bytes: int | None = None
    graph_node_bytes: int | None = None

    @property
    def assumed_non_torch_bytes(self) -> int:
        """This card's non_torch, or a typical value of its architecture."""
        if self.non_torch_bytes is not None:
            return self.non_torch_bytes
        if self.compute_capability in (8.6, 8.9):
            return _NON_TORCH_ADA_BYTES
        return _NON_TORCH_BYTES.get(int(self.compute_capability), _NON_TORCH_BYTES[8])

    @property
    def refused(self) -> str | None:
        """Why this stack cannot run on the card; None where it can."""
        return why_refused(self.compute_capability)


def why_refused(compute_capability: float) -> str | None:
    """Why this stack cannot run on a card of this compute capability; None where it can."""
    if compute_capability < MIN_CAPABILITY:
        return f"compute capability {compute_capability} is below 7.0, which vLLM and unsloth need"
    if compute_capability > MAX_CAPABILITY:
        return f"compute capability {compute_capability} is above 9.0, the newest that the CUDA 12.4 wheels of torch 2.5.1 have code for"
    return None


def card_from_table(name: str) -> Card:
    """The card in env/gpus.toml; BadInput for an unknown name, or where a required number is unknown."""
    key, gpu = gpu_named(name)
    total, used = known_bytes(gpu.total_bytes), known_bytes(gpu.used_before_bytes)
    if total is None or used is None:
        missing = ["--gpu-total-bytes"] * (total is None) + ["--gpu-free-bytes"]
        remedy = f"predict it alone, with --gpu {shlex.quote(name)} and {' and '.join(missing)}, or use another card"
        raise BadInput(
            Problem(
                f"env/gpus.toml: {key}",
                gpu.refused or "its memory is unknown",
                ANOTHER_CARD if gpu.refused else remedy,
            )
        )
    return _card(key, gpu, total, total - used)


def card_from_device(name: str, compute_capability: str, total_bytes: int, free_bytes: int) -> Card:
    """A card that is present: its own memory, with the table's constants if the table has this kind of card."""
    key = find_gpu(name)
    if key is None:
        return Card(
            name=name, compute_capability=float(compute_capability), total_bytes=total_bytes, free_bytes=free_bytes
        )
    gpu = changed(load_gpus()[key], {"compute_capability": compute_capability})
    return _card(name, gpu, total_bytes, free_bytes)


def card_of(gpu: GpuDevice) -> Card:
    """This machine's GPU, with the memory that it has free now."""
    return card_from_device(gpu.name, gpu.compute_capability, gpu.total_bytes, gpu.free_bytes)


def _card(name: str, gpu: Gpu, total_bytes: int, free_bytes: int) -> Card:
    return Card(
        name=name,
        compute_capability=float(gpu.compute_capability),
        total_bytes=total_bytes,
        free_bytes=free_bytes,
        non_torch_bytes=known_bytes(gpu.non_torch_bytes),
        graph_node_bytes=known_bytes(gpu.graph_node_bytes),
    )


def described_card(
    gpu: str | None,
    total_bytes: int | None,
    free_bytes: int | None,
    compute_capability: str | None,
    non_torch_bytes: int | None = None,
) -> Card:
    """A card as the user describes it: a name from the table, numbers, or a name with some numbers replaced.

    BadInput with everything that is missing or impossible, at once.
    """
    if gpu is None:
        card = _card_from_numbers(total_bytes, free_bytes, compute_capability or None)
    else:
        card = _card_with_numbers(gpu, total_bytes, free_bytes, compute_capability)
    return card if non_torch_bytes is None else replace(card, non_torch_bytes=non_torch_bytes)


def _card_from_numbers(total_bytes: int | None, free_bytes: int | None, compute_capability: str | None) -> Card:
    refuse_described(total_bytes, free_bytes, compute_capability)
    assert total_bytes is not None and free_bytes is not None and compute_capability is not None
    return card_from_device("a card", compute_capability, total_bytes, free_bytes)


def _card_with_numbers(
    name: str, total_bytes: int | None, free_bytes: int | None, compute_capability: str | None
) -> Card:
    """The card of the table, with the numbers that are not None instead of its own."""
    gpu = gpu_named(name)[1]
    used = known_bytes(gpu.used_before_bytes)
    total = known_bytes(gpu.total_bytes) if total_bytes is None else total_bytes
    free = total - used if free_bytes is None and total is not None and used is not None else free_bytes
    refused = gpu.refused or why_refused(float(gpu.compute_capability))
    if refused and (total is None or free is None):
        raise BadInput(Problem(f"env/gpus.toml: {name}", refused, ANOTHER_CARD))
    capability = compute_capability or gpu.compute_capability
    refuse_described(total, free, capability)
    assert total is not None and free is not None
    return _card(name, changed(gpu, {"compute_capability": capability}), total, free)


def refuse_described(total: int | None, free: int | None, capability: str | None) -> None:
    """BadInput with everything that is missing or impossible in a card that is described by its numbers."""
    if problems := described_problems(total, free, capability):
        raise BadInput(problems)


def described_problems(total: int | None, free: int | None, capability: str | None) -> list[Problem]:
    """What is missing or impossible in a card that is described by its numbers."""
    given = {"--gpu-total-bytes": total, "--gpu-free-bytes": free, "--compute-capability": capability}
    problems = [Problem(flag, "unknown for this card", _how_to_know(flag)) for flag in given if given[flag] is None]
    for flag, value, least in (
        ("--gpu-total-bytes", total, MIN_TOTAL_BYTES),
        ("--gpu-free-bytes", free, MIN_FREE_BYTES),
    ):
        if value is not None and value < least:
            problems.append(Problem(flag, f"{value} bytes are less than any card has", "give bytes, or 24GiB"))
    if total is not None and free is not None and total < free:
        problems.append(
            Problem("--gpu-free-bytes", f"{free} is more than the card's {total}", "give how much of that is free")
        )
    if capability is not None and not re.fullmatch(r"\d{1,2}\.\d", capability):
        problems.append(Problem("--compute-capability", f"{capability!r} is not one", "give it like 8.9"))
    return problems


def _how_to_know(flag: str) -> str:
    """How to find out each number of a card. The size of a context differs too much between cards to be assumed."""
    if flag == "--compute-capability":
        return "ask nvidia-smi --query-gpu=compute_cap --format=csv"
    if flag == "--gpu-total-bytes":
        return "give the second number of torch.cuda.mem_get_info() there"
    used = sorted(used for gpu in load_gpus().values() if (used := known_bytes(gpu.used_before_bytes)) is not None)
    return (
        "give the first number of torch.cuda.mem_get_info() there; on the cards of env/gpus.toml it is "
        f"{show_bytes(used[0])} to {show_bytes(used[-1])} below the total"
    )


def present_card(non_torch_bytes: int | None) -> Card:
    """This machine's GPU with its present free memory; UnsupportedMachine where there is none."""
    gpu = read_gpu()
    if gpu is None:
        raise UnsupportedMachine(
            Problem(
                "gpu",
                "none is visible on this machine",
                "name one with --gpu, such as --gpu T4, or describe one with --gpu-total-bytes",
            )
        )
    card = card_of(gpu)
    return card if non_torch_bytes is None else replace(card, non_torch_bytes=non_torch_bytes)
