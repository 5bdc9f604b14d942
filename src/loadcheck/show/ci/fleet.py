"""A fleet as a CI report: each node is a test."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime, timezone

from loadcheck.fleet.finding import NodeFinding
from loadcheck.fleet.verdict import FleetVerdict
from loadcheck.show.ci.report import Outcome, Report, Result
from loadcheck.show.fleet import in_words, summary


def of_fleet(title: str, verdict: FleetVerdict) -> Report:
    """One result for each node, grouped by card."""
    plan = verdict.plan
    header = ("card", "nodes", "pass", "loads s")
    rows = ((card.card, str(card.nodes), str(card.passed), str(card.loads_s)) for card in verdict.cards)
    facts = (
        () if plan is None else (("fleet", plan.name), ("profile", plan.profile.name), ("image", plan.image or "none"))
    )
    return Report(
        title=f"fleet {title}",
        status=verdict.status,
        passed=verdict.passed,
        summary=summary(verdict),
        results=tuple(_results(verdict)),
        facts=facts,
        table=(header, *rows),
        started=datetime.now(timezone.utc),
        duration_s=float(sum(card.loads_s for card in verdict.cards)),
    )


def _results(verdict: FleetVerdict) -> Iterator[Result]:
    found: dict[str, list[NodeFinding]] = defaultdict(list)
    for finding in verdict.findings:
        found[finding.node].append(finding)
    for node in verdict.nodes:
        outcome = Outcome.PASSED if node.status == "pass" else Outcome.FAILED
        told = "; ".join(map(in_words, found[node.node])) or node.status
        yield Result(node.card or "not in log", node.node, outcome, told, node.status)
