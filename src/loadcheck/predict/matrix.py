"""Which cards hold a load: the same case on each card."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from loadcheck.errors import BadInput, Problem
from loadcheck.predict.card import Card, card_from_table
from loadcheck.predict.case import Case
from loadcheck.specs.gpu import known_bytes, load_gpus
from loadcheck.units import to_gib


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a load or a training would be on one card, in bytes.

    Attributes:
        peak_bytes: of the card, at the peak of the load or of the training.
        full_batch_bytes: of the card with a full batch, where that is more; None where it does not apply.
        kv_tokens: the capacity of the KV cache; None without one.
        longest_tokens: the longest requests that fit with the other settings unchanged, in steps of 256, with a margin for the prediction's
            error; None where none fit, or where this was not searched.
        why_not: the first obstacle; empty where it fits.
    """

    fits: bool
    peak_bytes: int
    full_batch_bytes: int | None = None
    kv_tokens: int | None = None
    max_concurrency: float | None = None
    longest_tokens: int | None = None
    why_not: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One card of the table, with the outcome on it."""

    name: str
    card: Card
    outcome: Outcome

    @property
    def left_bytes(self) -> int:
        """What the card has left at the largest peak; negative where it is short."""
        return self.card.total_bytes - max(self.outcome.peak_bytes, self.outcome.full_batch_bytes or 0)

    def to_json(self) -> dict[str, Any]:
        """Memory in GiB; `left_gib` is at the largest of the peaks."""
        outcome = self.outcome
        return {
            "gpu": self.name,
            "gpu_total_gib": round(to_gib(self.card.total_bytes), 3),
            "fits": outcome.fits,
            "peak_gib": round(to_gib(outcome.peak_bytes), 2),
            "full_batch_peak_gib": None
            if outcome.full_batch_bytes is None
            else round(to_gib(outcome.full_batch_bytes), 2),
            "left_gib": round(to_gib(self.left_bytes), 2),
            "kv_tokens": outcome.kv_tokens,
            "max_concurrency": None if outcome.max_concurrency is None else round(outcome.max_concurrency, 2),
            "longest_tokens": outcome.longest_tokens,
            "why_not": outcome.why_not,
        }


def every_card() -> tuple[str, ...]:
    """The cards in env/gpus.toml that this stack supports and whose free memory is known, smallest first."""
    table = load_gpus()
    known = (
        name for name, gpu in table.items() if gpu.refused is None and known_bytes(gpu.used_before_bytes) is not None
    )
    return tuple(sorted(known, key=lambda name: known_bytes(table[name].total_bytes) or 0))


def cards_named(names: Iterable[str]) -> list[tuple[str, Card]]:
    """The cards in env/gpus.toml with these names, in order; BadInput with all problems at once."""
    found: list[tuple[str, Card]] = []
    problems: list[Problem] = []
    for name in names:
        try:
            found.append((name, card_from_table(name)))
        except BadInput as error:
            problems += (
                replace(problem, where="--gpus") if problem.where == "--gpu" else problem for problem in error.problems
            )
    if problems:
        raise BadInput(problems)
    return found


def matrix(case: Case, cards: Iterable[tuple[str, Card]], outcome: Callable[[Case], Outcome]) -> tuple[Row, ...]:
    """The case on each card, each with nothing else on it."""
    return tuple(Row(name, card, outcome(replace(case, card=card))) for name, card in cards)
