"""Two loads side by side, for people."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich.console import Console
from rich.text import Text

from loadcheck.comparing import ROUNDING, Change, Comparison, Difference, Part, Subject
from loadcheck.figures import FigureSpec, Kind
from loadcheck.terminal import Name, print_item, print_table, print_words
from loadcheck.units import show_bytes, to_gib

Number = int | float


def show_comparison(out: Console, comparison: Comparison) -> None:
    """Print both loads, the differing settings, versions and machine facts, each moved figure with its causes, and the verdict."""
    for letter, subject in (("A", comparison.a), ("B", comparison.b)):
        print_words(out, f"{letter}  {subject.name}: {_described(subject)}")
    for title, changes in (
        ("settings", comparison.settings),
        ("versions", comparison.versions),
        ("machine", comparison.machine),
    ):
        if changes:
            out.print()
            print_table(out, (title, "A", "B"), "lll", map(shown_change, changes))
    if comparison.moved:
        out.print()
        _show_moved(out, comparison.moved)
    out.print()
    print_words(out, summary(comparison))


def summary(comparison: Comparison) -> str:
    """The verdict in a line: same or different, how many figures moved, and whether each difference is explained."""
    if comparison.num_compared == 0:
        return "DIFFERENT: they have no figure in common"
    ended = "" if comparison.ended_alike else f"; A {comparison.a.ending}, B {comparison.b.ending}"
    ended += "" if comparison.of_a_kind else "; one is a training, the other is not"
    figures = f"{comparison.num_compared} figure{'s' if comparison.num_compared > 1 else ''}"
    if not comparison.moved:
        return f"{'SAME' if comparison.same else 'DIFFERENT'}: none of {figures} moved{ended}"
    names = ", ".join(difference.spec.name for difference in comparison.unexplained)
    explained = f"not explained: {names}" if names else "every difference is explained"
    return f"DIFFERENT: {len(comparison.moved)} of {figures} moved, {explained}{ended}"


def _described(subject: Subject) -> str:
    said = (subject.kind, subject.ending, subject.model, subject.machine.get("gpu_name"))
    return ", ".join(str(part) for part in said if part is not None)


def shown_change(change: Change) -> tuple[str, str, str]:
    """The name and both values of a change, for people."""
    if change.name.endswith("_bytes"):
        return change.name.removesuffix("_bytes"), show_bytes(change.a), show_bytes(change.b)
    return change.name, Name(_shown(change.a)), Name(_shown(change.b))


def _shown(value: object) -> str:
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return "not stated" if value is None else str(value)


def _show_moved(out: Console, moved: Iterable[Difference]) -> None:
    """Print a row for each figure, and below the table what moved it."""
    moved = tuple(moved)
    rows = (
        (difference.spec.name, difference.a.show(), difference.b.show(), amount_of(difference.spec, difference.amount))
        for difference in moved
    )
    print_table(out, ("figure", "A", "B", "difference"), "lrrr", rows)
    out.print()
    for difference in moved:
        out.print(f"{difference.spec.name}", markup=False)
        for line in causes(difference):
            print_item(out, Text(" "), line)


def causes(difference: Difference) -> Iterator[str]:
    """A line for each change that moved the figure, by terms, and one for the rest."""
    for part in difference.parts:
        yield f"{part.change}: {_terms(difference.spec, part)}"
    if not difference.explained or (difference.rest and difference.why != ROUNDING):
        yield f"{'rest' if difference.explained else 'NOT EXPLAINED'} {exact(difference.spec, difference.rest)}: {difference.why}"


def _terms(spec: FigureSpec, part: Part) -> str:
    """Each term by name; a figure with itself as its only term needs no name."""
    if list(part.terms) == [spec.attribute.removesuffix("_bytes")]:
        return exact(spec, part.amount)
    return ", ".join(f"{name} {exact(spec, amount)}" for name, amount in part.terms.items())


def exact(spec: FigureSpec, amount: Number) -> str:
    """An amount with its sign: memory to the byte, everything else as printed."""
    return f"{round(amount):+,} bytes" if spec.kind is Kind.MEMORY else amount_of(spec, amount)


def amount_of(spec: FigureSpec, amount: Number) -> str:
    """An amount with its sign and unit, memory in GiB."""
    if spec.kind is Kind.COUNT:
        return f"{round(amount):+,}"
    number = to_gib(amount) if spec.kind is Kind.MEMORY else float(amount)
    return f"{number:+.{max(spec.decimals or 0, 2)}f} {spec.kind.value}"
