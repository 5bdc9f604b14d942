"""The verdict on a fleet: every node, every card, and what keeps it from passing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from loadcheck.errors import EXIT_FAIL, EXIT_PASS
from loadcheck.fleet.finding import NodeFinding
from loadcheck.fleet.plan import FleetPlan
from loadcheck.fleet.tally import Tally


@dataclass(frozen=True, slots=True)
class NodeResult:
    """A node and its status: pass, fail, refused, skipped, retried or missing. `runs` is how many run folders it has."""

    node: str
    card: str | None
    status: str
    runs: int
    folder: str = ""
    duration_s: float | None = None


@dataclass(frozen=True, slots=True)
class CardResult:
    """The nodes of one card.

    Attributes:
        loads_s: the total time of all its loads, including failed and lost ones.
        price_per_hour: of its cheapest node.
        cost: of the loads' time at the price of each node, in the plan's currency; None without prices.
    """

    card: str
    nodes: int
    passed: int
    loads_s: int
    price_per_hour: float | None = None
    cost: float | None = None

    @property
    def cost_per_verified_load(self) -> float | None:
        return None if self.cost is None or not self.passed else self.cost / self.passed

    def to_json(self) -> dict[str, Any]:
        costs = {"cost": self.cost, "cost_per_verified_load": self.cost_per_verified_load}
        return asdict(self) | {name: None if cost is None else round(cost, 6) for name, cost in costs.items()}


@dataclass(frozen=True, slots=True)
class FleetVerdict:
    """The whole verdict. A fleet passes only if every node passes and there are no findings."""

    plan: FleetPlan | None
    nodes: tuple[NodeResult, ...]
    findings: tuple[NodeFinding, ...]
    cards: tuple[CardResult, ...]
    tally: Tally

    @property
    def status(self) -> str:
        """pass or fail; "skipped" without any node."""
        if not self.nodes:
            return "skipped"
        return "pass" if not self.findings and all(node.status == "pass" for node in self.nodes) else "fail"

    @property
    def passed(self) -> bool:
        return self.status == "pass"

    @property
    def exit_code(self) -> int:
        return EXIT_PASS if self.passed else EXIT_FAIL

    @property
    def counts(self) -> dict[str, int]:
        """The number of nodes by status, passes first."""
        found = Counter(node.status for node in self.nodes)
        return {"pass": found.pop("pass", 0), **dict(found.most_common())}

    @property
    def cheapest(self) -> CardResult | None:
        """The cheapest card per hour on which a node passed; None without prices."""
        priced = [(card.price_per_hour, card) for card in self.cards if card.passed and card.price_per_hour is not None]
        return min(priced, key=lambda offer: offer[0])[1] if priced else None

    def to_json(self) -> dict[str, Any]:
        """`figures` holds the values that most nodes of a card print; `deviations` the others, with some of their nodes."""
        plan = self.plan
        return {
            "verdict": self.status,
            "fleet": None if plan is None else plan.name,
            "image": None if plan is None else plan.image,
            "lock_sha256": None if plan is None else plan.lock_sha256,
            "profile": None if plan is None else plan.profile.name,
            "counts": self.counts,
            "nodes": [asdict(node) for node in self.nodes],
            "cards": [card.to_json() for card in self.cards],
            "cheapest_card": None if self.cheapest is None else self.cheapest.card,
            "figures": list(self._figures()),
            "deviations": [deviation.to_json() for deviation in self.tally.deviations()],
            "findings": [finding.to_json() for finding in self.findings],
        }

    def _figures(self) -> Iterator[dict[str, Any]]:
        for card, figure, measured, value in self.tally.usual():
            yield {
                "card": card,
                "figure": figure,
                "predicted": value.predicted,
                "measured": measured,
                "nodes": value.count,
            }


def cards_of(
    plan: FleetPlan | None, nodes: tuple[NodeResult, ...], loads_s: Mapping[str, float], costs: Mapping[str, float]
) -> tuple[CardResult, ...]:
    """The results by card, sorted by name; `loads_s` and `costs` are by card, too."""
    prices = {} if plan is None else {card.card: card.price_per_hour for card in plan.cards}
    found = Counter(node.card or "" for node in nodes)
    passed = Counter(node.card or "" for node in nodes if node.status == "pass")
    return tuple(
        CardResult(
            card or "not in log",
            found[card],
            passed[card],
            round(loads_s.get(card, 0)),
            prices.get(card),
            costs.get(card),
        )
        for card in sorted(found)
    )
