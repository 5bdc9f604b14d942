"""A fleet for people: the plan and its result."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from rich.console import Console
from rich.text import Text

from loadcheck.fleet.bundle import Verified
from loadcheck.fleet.finding import NodeFinding
from loadcheck.fleet.tally import Deviation
from loadcheck.fleet.verdict import CardResult, FleetVerdict
from loadcheck.terminal import Name, print_item, print_table, print_words

SHOWN = 50
"""Findings and deviations that are printed; the rest is counted. --json has them all."""


def show_fleet(out: Console, verdict: FleetVerdict) -> None:
    """Print cards, figures, deviations, findings, and the verdict."""
    plan = verdict.plan
    if plan is None:
        print_words(out, "There is no plan (fleet.json or --plan), so missing nodes cannot be detected.")
    else:
        image = f", image {plan.image}" if plan.image else ""
        print_words(out, f"{plan.name}: profile {plan.profile.name} on {len(plan.nodes)} nodes by {plan.engine}{image}")
    out.print()
    _show_cards(out, verdict.cards)
    _show_figures(out, verdict)
    _show_deviations(out, list(map(deviation_in_words, verdict.tally.deviations())))
    _show_findings(out, verdict.findings)
    out.print()
    print_words(out, summary(verdict))


def summary(verdict: FleetVerdict) -> str:
    """The verdict in a line: how many nodes ended how, and the cheapest card."""
    counts = [f"{count} {status}" for status, count in verdict.counts.items() if status != "pass"]
    said = [f"{verdict.counts['pass']} of {len(verdict.nodes)} nodes pass", *counts]
    cheapest = verdict.cheapest
    if cheapest is not None:
        said.append(f"the cheapest card that holds it is {cheapest.card}, {cheapest.price_per_hour:g} per hour")
    return f"{verdict.status.upper()}: {', '.join(said)}"


def _show_cards(out: Console, cards: Sequence[CardResult]) -> None:
    priced = any(card.price_per_hour is not None for card in cards)
    header = ("card", "nodes", "pass", "loads s") + (("per hour", "per verified load") if priced else ())
    rows = (_card(card) if priced else _card(card)[:4] for card in cards)
    print_table(out, header, "l" + "r" * (len(header) - 1), rows)


def _card(card: CardResult) -> tuple[str, ...]:
    price, per_load = card.price_per_hour, card.cost_per_verified_load
    return (
        Name(card.card),
        f"{card.nodes:,}",
        f"{card.passed:,}",
        f"{card.loads_s:,}",
        "" if price is None else f"{price:.2f}",
        "" if per_load is None else f"{per_load:.4f}",
    )


def _show_figures(out: Console, verdict: FleetVerdict) -> None:
    """Print what most nodes of a card log, for the predicted figures."""
    for card, figures in groupby(verdict.tally.usual(), key=lambda entry: entry[0]):
        rows = [(name, value.predicted or "", Name(measured), f"{value.count:,}") for _, name, measured, value in figures
                if value.predicted is not None]  # fmt: skip
        if rows:
            out.print()
            print_table(out, (card, "predicted", "measured", "nodes"), "lrrr", rows)


def deviation_in_words(deviation: Deviation) -> str:
    """Which nodes log what, what is usual on their card, and in which digit they differ."""
    more = deviation.count - len(deviation.nodes)
    nodes = ", ".join(deviation.nodes) + (f" and {more} more" if more else "")
    digit = f", {deviation.digit}" if deviation.digit else ""
    own = f"; predicted there: {deviation.predicted}" if deviation.predicted is not None else ""
    return f"{deviation.figure} is {deviation.measured} on {nodes}, {deviation.usual} on most of {deviation.card}{digit}{own}"


def _show_deviations(out: Console, lines: Sequence[str]) -> None:
    if lines:
        out.print()
    for line in lines[:SHOWN]:
        print_words(out, line)
    _show_rest(out, len(lines), "other values")


def _show_rest(out: Console, num: int, what: str) -> None:
    if num > SHOWN:
        print_words(out, f"and {num - SHOWN:,} more {what} (--json)")


def _show_findings(out: Console, findings: Sequence[NodeFinding]) -> None:
    if findings:
        out.print()
    for finding in findings[:SHOWN]:
        print_item(out, Text("FAIL", style="bold red"), in_words(finding))
    _show_rest(out, len(findings), "findings")


def in_words(finding: NodeFinding) -> str:
    """One finding in a sentence: node, kind, what, fix, folder."""
    where = f"; at {finding.folder}" if finding.folder else ""
    return f"{finding.node}: {finding.kind.value}: {finding.what}; {finding.remedy}{where}"


def show_verified(out: Console, verified: Verified) -> None:
    """Print what the bundle states, its faults, and whether it is verified."""
    predicate = verified.statement.predicate
    for file in predicate.configuration:
        sha256 = file.get("digest", {}).get("sha256", "not stated")
        print_words(out, f"{file.get('name')}: {file.get('uri') or 'sha256:' + str(sha256)}")
    for fault, what in verified.faults[:SHOWN]:
        print_item(out, Text("FAIL", style="bold red"), f"{fault.value}: {what}")
    _show_rest(out, len(verified.faults), "faults")
    nodes = f"{len(predicate.passed_tests)} of {len(predicate.passed_tests) + len(predicate.failed_tests)} nodes pass"
    if not verified.is_believed:
        print_words(out, f"NOT VERIFIED: do not trust what it states ({predicate.result}, {nodes})")
        return
    print_words(
        out,
        f"VERIFIED: {len(verified.statement.subject):,} files, signed by {verified.signer}; {predicate.result}, {nodes}",
    )
