"""The page of a fleet: findings first, then cards, figures and nodes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import groupby

from loadcheck.fleet.verdict import FleetVerdict
from loadcheck.show.fleet import deviation_in_words, summary
from loadcheck.show.page.render import render

SHOWN = 1000
"""Findings and nodes on a page; browsers need seconds for more. Nodes that do not pass come first."""

Row = tuple[str, str | None, str, int, list[str]]


def fleet_page(title: str, verdict: FleetVerdict, command: str) -> str:
    """The verdict on a fleet, in one file.

    Args:
        title: what was gathered.
        command: the command that did it.
    """
    nodes = sorted(verdict.nodes, key=lambda node: node.status == "pass")
    return render(
        "fleet",
        title=title if verdict.plan is None else f"fleet {verdict.plan.name}",
        summary=summary(verdict),
        verdict=verdict,
        facts=tuple(_facts(verdict)),
        findings=verdict.findings[:SHOWN],
        more_findings=max(len(verdict.findings) - SHOWN, 0),
        figures=list(_figures(verdict)),
        nodes=nodes[:SHOWN],
        more_nodes=max(len(nodes) - SHOWN, 0),
        command=command,
    )


def _facts(verdict: FleetVerdict) -> Iterator[tuple[str, str]]:
    plan = verdict.plan
    if plan is None:
        yield "plan", "none, so missing nodes cannot be detected"
        return
    yield "profile", plan.profile.name
    yield "engine", plan.engine
    yield "image", plan.image or "not stated"
    yield "lock", plan.lock_sha256 or "not stated"
    yield "planned", plan.created_at.isoformat()


def _figures(verdict: FleetVerdict) -> Iterator[tuple[str, list[Row]]]:
    """For each card, each figure with what most nodes print, and what the others print."""
    others: dict[tuple[str, str], list[str]] = defaultdict(list)
    for deviation in verdict.tally.deviations():
        others[deviation.card, deviation.figure].append(deviation_in_words(deviation))
    for card, figures in groupby(verdict.tally.usual(), key=lambda entry: entry[0]):
        yield card, [(name, value.predicted, measured, value.count, others[card, name]) for _, name, measured, value in figures]  # fmt: skip
