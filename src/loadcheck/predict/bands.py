"""How far a measured figure may lie from the predicted one. Everything else is equal to the printed digit."""

from __future__ import annotations

from dataclasses import dataclass

from loadcheck.predict.card import Card
from loadcheck.predict.prediction import Prediction
from loadcheck.units import from_gib


@dataclass(frozen=True, slots=True)
class Band:
    """What a figure may be, in its own unit (bytes for memory), and why physics gives it a band at all."""

    low: float
    high: float
    why: str


KV_SLACK_BYTES = from_gib(0.02)
BLOCKS_SLACK = 0.001
GRAPH_SLACK = 0.15
GRAPH_UNKNOWN = (0.55, 1.60)
"""Shares of the prediction where the driver's memory for a graph's node is not known of the card: it is 8.2 kB on a T4 and 3.6 kB on
Hopper, and with the one instead of the other the prediction moves to 0.65, or to 1.55 (32 graphs of Llama 3.1 8B on an H100, by
predict/graphs.py)."""
PEAK_SLACK = 0.03
NON_TORCH_SLACK_BYTES = from_gib(0.05)
NON_TORCH_SEEN_BYTES = (from_gib(-0.05), from_gib(0.25))
"""Over all logs of fresh and warm processes: -0.01 to 0.16 GiB (shared T4, A10G, A100, H100, H200 logs)."""


def bands(prediction: Prediction, card: Card) -> dict[str, Band]:
    """The band of each figure that has one, by attribute; a wide one where its constant was never measured on this card."""
    figures = prediction.figures
    assert figures.kv_cache_bytes is not None and figures.num_gpu_blocks is not None
    assert figures.max_concurrency is not None and figures.peak_device_bytes is not None
    found = {
        "kv_cache_bytes": _around(
            figures.kv_cache_bytes, KV_SLACK_BYTES, "what the budget leaves; non_torch is printed to 0.01 GiB"
        ),
        "num_gpu_blocks": _within(figures.num_gpu_blocks, BLOCKS_SLACK, "non_torch moves by a few blocks"),
        "max_concurrency": _within(figures.max_concurrency, BLOCKS_SLACK, "as num_gpu_blocks"),
        "peak_device_bytes": _within(figures.peak_device_bytes, PEAK_SLACK, "torch's cache keeps some slack"),
        "non_torch_bytes": _non_torch(card),
    }
    if figures.cuda_graph_bytes:  # without graphs it is 0 to the byte
        found["cuda_graph_bytes"] = _graphs(figures.cuda_graph_bytes, card)
    return found


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
