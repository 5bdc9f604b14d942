"""A prediction, for people: every figure, whether it fits, and where the bytes go."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from loadcheck.figures import Figures, Kind
from loadcheck.predict import Prediction
from loadcheck.predict.terms import Term
from loadcheck.terminal import Name, escape, print_item, print_table, print_words


def show_without_budget(out: Console, prediction: Prediction) -> None:
    """Print the prediction of a load without vLLM, with its limits and notes."""
    _show_figures(out, prediction.figures)
    exact = (
        "adapters and parameters" if prediction.figures.weights_bytes is None else "weights, adapters and parameters"
    )
    out.print()
    print_words(out, f"Without vLLM only {exact} are predicted to the byte, not whether the load fits.")
    for note in prediction.notes:
        print_words(out, f"{note}.")


def _show_figures(out: Console, figures: Figures) -> None:
    known = ((spec, value) for spec, value in figures.items() if value is not None)
    rows = ((spec.name, (Name if spec.kind is Kind.TEXT else str)(spec.show(value))) for spec, value in known)
    print_table(out, ("figure", "predicted"), "lr", rows)


def show_prediction(out: Console, prediction: Prediction, tree: bool) -> None:
    """Print every predicted figure of the load log, and whether it fits."""
    _show_figures(out, prediction.figures)
    if tree:
        out.print()
        for depth, term in prediction.memory.peak.walk():
            show_term(out, depth, term)
        for batch in (prediction.memory.full_batch, prediction.memory.sorted_batch):
            if batch is not None:  # the parts of the peak without training, and one more
                show_term(out, 0, batch)
                show_term(out, 1, batch.parts[-1])
    for note in (*prediction.notes, *prediction.edges):
        out.print(f"Note: {escape(note)}")
    for warning in prediction.warnings:
        out.print(f"[yellow]WARNING[/] {escape(warning)}")
    for obstacle in prediction.obstacles:
        out.print(f"[bold red]NO[/] {escape(obstacle.what)}; {escape(obstacle.remedy)}")
        out.print(f"   the engine would say: {escape(obstacle.engine_says)}")
    show_fits(out, prediction.fits)


def show_fits(out: Console, fits: bool) -> None:
    """Print whether it fits, on a line of its own."""
    out.print("\n[green]FITS[/]" if fits else "\n[bold red]DOES NOT FIT[/]")


def show_term(out: Console, depth: int, term: Term) -> None:
    """Print a term of a tree, with the source of its formula."""
    source = (f"  {term.source}", "dim") if term.source else ""
    print_item(out, Text(f"{'  ' * depth}{term.num_bytes:>16}"), Text.assemble(term.name, source))
