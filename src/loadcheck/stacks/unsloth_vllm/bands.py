"""How far a measured figure may differ from its prediction. All other figures must be equal to the printed digit."""

from __future__ import annotations

from dataclasses import dataclass

from loadcheck.figures import Figures
from loadcheck.predict.band import Band
from loadcheck.predict.card import Card
from loadcheck.units import from_gib

KV_SLACK_BYTES = from_gib(0.02)
BLOCKS_SLACK = 0.001
GRAPH_SLACK = 0.15
GRAPH_UNKNOWN = (0.50, 2.00)
"""Shares of the prediction where the driver's memory per graph node is unknown for the card. It is 8.2 kB on a T4 and 3.6 kB on Hopper;
with one instead of the other the prediction changes to 0.65 or 1.55 (32 graphs of Llama 3.1 8B on an H100, by
stacks/unsloth_vllm/graphs.py), or to 0.53 or 1.94 where nearly all of it is nodes (SmolLM2-135M on an A100; on Hopper with 368 sequences)."""
PEAK_SLACK = 0.03
NON_TORCH_SLACK_BYTES = from_gib(0.05)
NON_TORCH_SEEN_BYTES = (from_gib(-0.05), from_gib(0.25))
"""Over all logs of new and reused processes: -0.01 to 0.16 GiB (shared T4, A10G, A100, H100, H200 logs)."""


@dataclass(frozen=True, slots=True)
class Rounding:
    """The uncertainty, in bytes, of a prediction that starts from rounded numbers in a log; zero where they are known to the byte.

    Attributes:
        budget_bytes: of the budget. The utilization is printed to 0.01 %, which is 8 MiB of an 80 GiB card.
        non_torch_bytes: of non_torch, which is printed to 0.01 GiB.
        block_bytes: the size of a block of the KV cache, which is affected by both.
    """

    budget_bytes: float = 0.0
    non_torch_bytes: float = 0.0
    block_bytes: int = 1

    @property
    def blocks(self) -> float:
        return (self.budget_bytes + self.non_torch_bytes) / self.block_bytes


EXACT = Rounding()


def bands(figures: Figures, card: Card, rounding: Rounding = EXACT) -> dict[str, Band]:
    """The band of each predicted figure that has one, by attribute; a wide one where a constant was never measured on this card."""
    assert figures.kv_cache_bytes is not None and figures.num_gpu_blocks is not None
    assert figures.max_concurrency is not None
    found = {
        "kv_cache_bytes": _around(
            figures.kv_cache_bytes,
            KV_SLACK_BYTES + rounding.budget_bytes,
            "what the budget leaves; non_torch is printed to 0.01 GiB",
        ),
        **_blocks(figures.num_gpu_blocks, figures.max_concurrency, rounding),
        "non_torch_bytes": _non_torch(card),
    }
    if figures.peak_device_bytes is not None:
        found["peak_device_bytes"] = _within(figures.peak_device_bytes, PEAK_SLACK, "torch's cache keeps some slack")
    if figures.cuda_graph_bytes:  # without graphs it is exactly 0
        found["cuda_graph_bytes"] = _graphs(figures.cuda_graph_bytes, card)
    if rounding.budget_bytes:  # otherwise they are equal to the printed digit
        for attribute in ("budget_bytes", "kv_estimate_bytes"):
            value = getattr(figures, attribute)
            if value is None:
                continue
            found[attribute] = _around(
                value, rounding.budget_bytes, "free memory is known from the printed utilization"
            )
    return found


def _blocks(num_blocks: int, concurrency: float, rounding: Rounding) -> dict[str, Band]:
    """Both vary in proportion, by a few blocks or by the rounding, whichever is more."""
    share = max(BLOCKS_SLACK, rounding.blocks / max(num_blocks, 1))
    return {
        "num_gpu_blocks": _within(num_blocks, share, "non_torch moves by a few blocks"),
        "max_concurrency": _within(concurrency, share, "as num_gpu_blocks"),
    }


def _graphs(predicted_bytes: int, card: Card) -> Band:
    if card.graph_node_bytes is None:
        low, high = (share * predicted_bytes for share in GRAPH_UNKNOWN)
        return Band(low, high, "the driver's own memory for a graph, never measured on this card")
    return _within(predicted_bytes, GRAPH_SLACK, "the driver's own memory for a graph is fitted")


def _non_torch(card: Card) -> Band:
    if card.non_torch_bytes is None:
        low, high = NON_TORCH_SEEN_BYTES
        return Band(low, high, "a constant of card and driver, never measured on this card")
    return _around(card.non_torch_bytes, NON_TORCH_SLACK_BYTES, "a constant of card and driver (env/gpus.toml)")


def _around(value: float, slack: float, why: str) -> Band:
    return Band(value - slack, value + slack, why)


def _within(value: float, share: float, why: str) -> Band:
    return Band(value * (1 - share) - 1, value * (1 + share) + 1, f"± {share:.1%}: {why}")
