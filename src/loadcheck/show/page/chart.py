"""Charts of memory over time and of a training's loss, drawn at any width."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from loadcheck.logs.event import Event
from loadcheck.logs.events import (
    Answered,
    Attached,
    Imported,
    Loaded,
    Stepped,
    TrainBegin,
    TrainDone,
    Trained,
    TrainStep,
    WeightsLoaded,
    WeightsReady,
)
from loadcheck.runs.sampler import MAX_SECONDS, Sample
from loadcheck.units import to_gib
from loadcheck.verdict import Evidence

MAX_POINTS = 500
MAX_READINGS = 100
"""Places at which the cursor shows a value."""
STAGES: dict[type[Event], str] = {
    WeightsReady: "weights made",
    Imported: "imported",
    WeightsLoaded: "weights loaded",
    Loaded: "model loaded",
    Attached: "adapters attached",
    Answered: "answered",
    Trained: "trained",
    TrainBegin: "training begins",
    TrainDone: "trained",
}
"""Events of our engines that are marked, and their labels."""
MAX_LOSS = 1e6
"""Losses above this, or below 0, are not drawn."""
Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Line:
    """One line, (x, y) in the units of its axes."""

    name: str
    points: Points


@dataclass(frozen=True, slots=True)
class Chart:
    """Lines over one pair of axes that begin at 0.

    Attributes:
        unit_x, unit_y: units of the axes.
        marks: stages: the x at which each was reached, and its name.
        level: a reference line, such as the predicted peak; None without one.
    """

    lines: tuple[Line, ...]
    unit_x: str
    unit_y: str
    marks: tuple[tuple[float, str], ...] = ()
    level: float | None = None
    level_name: str = ""

    @property
    def end_x(self) -> float:
        return max(line.points[-1][0] for line in self.lines) or 1.0

    @property
    def top_y(self) -> float:
        highest = max(y for line in self.lines for _, y in line.points)
        return max(highest, self.level or 0.0) * 1.05 or 1.0

    def path(self, line: Line) -> str:
        """The points of the line in a drawing of 1000 by 1000 units, with the origin at the top left."""
        end_x, top_y = self.end_x, self.top_y  # each reads every point
        return " ".join(
            f"{1000 * x / end_x:.1f},{1000 - 1000 * y / top_y:.1f}" for x, y in thinned(line.points, MAX_POINTS)
        )

    def ticks(self) -> tuple[tuple[float, str], ...]:
        """Ticks of the x axis: quarters of it, or whole steps."""
        if self.unit_x == "s":
            return tuple((self.end_x * quarter / 4, f"{self.end_x * quarter / 4:.1f}") for quarter in range(5))
        step = -(-int(self.end_x) // 4) or 1
        return tuple((float(x), f"{x}") for x in range(0, int(self.end_x) + 1, step))

    def readings(self) -> Iterator[tuple[float, float, str]]:
        """For the cursor: ranges of x, and the text for each, with the highest value in it."""
        step = self.end_x / MAX_READINGS
        highest = [self._highest(line, step) for line in self.lines]
        for number in range(MAX_READINGS):
            values = [(line.name, found.get(number)) for line, found in zip(self.lines, highest, strict=True)]
            texts = [f"{name} {value:.2f} {self.unit_y}".strip() for name, value in values if value is not None]
            if texts:
                middle = (number + 0.5) * step
                yield number * step, (number + 1) * step, f"{middle:.1f} {self.unit_x}: {', '.join(texts)}"

    @staticmethod
    def _highest(line: Line, step: float) -> dict[int, float]:
        """The highest point of the line at each place, by its number."""
        found: dict[int, float] = {}
        for x, y in line.points:
            place = min(int(x / step), MAX_READINGS - 1)
            found[place] = max(y, found.get(place, y))
        return found


def thinned(points: Points, most: int) -> Points:
    """At most `most` points: the highest of each group of neighbours."""
    step = -(-len(points) // most) or 1
    return [max(points[at : at + step], key=lambda point: point[1]) for at in range(0, len(points), step)]


def memory_chart(samples: Sequence[Sequence[Sample]], evidence: Evidence | None, peak_bytes: int | None) -> tuple[str, Chart] | None:  # fmt: skip
    """The subject and the chart, in seconds and GiB: the device if it was sampled, else the loading process; None without samples.

    Args:
        samples: those of each process of the run.
        peak_bytes: the predicted peak of the subject.
    """
    for attribute, what in (("device_used_bytes", "device"), ("child_rss_bytes", "loading process")):
        line, starts_s = memory_line(samples, attribute)
        if len(line) > 1 and line[-1][0] > 0:
            marks = tuple((x, name) for x, name in sorted(_marks(starts_s, evidence)) if x <= line[-1][0])
            level = None if peak_bytes is None else to_gib(peak_bytes)
            return what, Chart((Line("", line),), "s", "GiB", marks, level, "predicted peak")
    return None


def memory_line(samples: Sequence[Sequence[Sample]], attribute: str) -> tuple[list[tuple[float, float]], list[float]]:
    """(seconds, GiB) of the processes, one after the other, and when each began."""
    points: list[tuple[float, float]] = []
    starts_s, end_s = [], 0.0
    for process in samples:
        starts_s.append(end_s)
        known = ((sample.t_s, getattr(sample, attribute)) for sample in process)
        points += [(starts_s[-1] + t_s, to_gib(num_bytes)) for t_s, num_bytes in known if num_bytes is not None]
        end_s += max(sample.t_s for sample in process)
    return points, starts_s


def _marks(starts_s: Sequence[float], evidence: Evidence | None) -> Iterator[tuple[float, str]]:
    """The stages, by our engines' events, whose times count from the start of their process: for all but the weights, the last one."""
    for event in () if evidence is None else evidence.attempt.all(Event):
        if type(event) in STAGES and event.at_s is not None and event.at_s < MAX_SECONDS:
            yield starts_s[0 if isinstance(event, WeightsReady) else -1] + event.at_s, STAGES[type(event)]


def loss_chart(evidence: Evidence | None) -> Chart | None:
    """The loss of each training step; None without training."""
    steps: list[Stepped | TrainStep] = []
    if evidence is not None:
        steps = [*evidence.attempt.all(Stepped), *evidence.attempt.all(TrainStep)]
    losses = [step.loss for step in steps if step.loss is not None and 0 <= step.loss < MAX_LOSS]
    points = [(float(number), loss) for number, loss in enumerate(losses, 1)]
    return Chart((Line("loss", points),), "steps", "") if len(points) > 1 else None
