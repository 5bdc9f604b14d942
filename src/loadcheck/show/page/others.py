"""Pages of a prediction, of a comparison, and of a table of cards."""

from __future__ import annotations

from collections.abc import Sequence

from loadcheck.comparing import Comparison
from loadcheck.figures import Kind
from loadcheck.predict import Case, Prediction
from loadcheck.predict.matrix import Row
from loadcheck.runs.sampler import Sample
from loadcheck.show.case import describe, describe_load
from loadcheck.show.compare import amount_of, causes, shown_change
from loadcheck.show.compare import summary as comparison_summary
from loadcheck.show.page.chart import Chart, Line, memory_line
from loadcheck.show.page.facts import rerun_command, shown_settings
from loadcheck.show.page.memory import memory_of
from loadcheck.show.page.render import render


def prediction_page(case: Case, prediction: Prediction, command: str) -> str:
    """A predicted load: whether it fits, where the bytes go, every figure, the terms with their sources.

    Args:
        command: the command that made the prediction.
    """
    known = [(spec, value) for spec, value in prediction.figures.items() if value is not None]
    account = prediction.account
    return render(
        "prediction",
        title=describe(case),
        fits=prediction.fits,
        prediction=prediction,
        memory=memory_of(prediction, {}),
        figures=[(spec.name, spec.show(value), "" if spec.kind is Kind.TEXT else spec.kind.value) for spec, value in known],
        terms=() if account is None else [(depth, term) for root in (account.peak, account.full_batch) for depth, term in root.walk()],
        full_batch=None if account is None else account.full_batch.num_bytes,
        settings=shown_settings(case.profile),
        command=command,
        load=rerun_command(case.profile),
    )  # fmt: skip


def comparison_page(
    comparison: Comparison, samples: tuple[Sequence[Sequence[Sample]], Sequence[Sequence[Sample]]], command: str
) -> str:
    """Two loads side by side: what differs, what each change moved, and the memory of both over time in one chart."""
    moved = [
        (difference.spec.name, difference.a.show(), difference.b.show(), amount_of(difference.spec, difference.amount), list(causes(difference)), difference.explained)
        for difference in comparison.moved
    ]  # fmt: skip
    groups = (("Settings", comparison.settings), ("Versions", comparison.versions), ("Machine", comparison.machine))
    return render(
        "comparison",
        title=f"{comparison.a.name} and {comparison.b.name}",
        found=comparison,
        summary=comparison_summary(comparison),
        moved=moved,
        groups=[(title, [shown_change(change) for change in changes]) for title, changes in groups if changes],
        chart=_chart_of_both(samples),
        command=command,
    )


def _chart_of_both(samples: tuple[Sequence[Sequence[Sample]], Sequence[Sequence[Sample]]]) -> Chart | None:
    """The device's memory of both runs, each from its own start; None if one was not sampled."""
    for attribute in ("device_used_bytes", "child_rss_bytes"):
        lines = tuple(Line(name, memory_line(sample, attribute)[0]) for name, sample in zip("AB", samples, strict=True))
        if all(len(line.points) > 1 for line in lines):
            return Chart(lines, "s", "GiB")
    return None


def matrix_page(case: Case, rows: Sequence[Row], command: str) -> str:
    """Which cards hold a load, with the memory left on each."""
    return render(
        "matrix", title=describe_load(case), rows=rows, command=command, settings=shown_settings(case.profile)
    )
