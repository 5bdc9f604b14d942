"""A card's memory as bars, predicted beside measured, term by term."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from loadcheck.errors import shortlist
from loadcheck.figures import Figures, Reading
from loadcheck.predict import Prediction
from loadcheck.predict.terms import Term

INSIDE = ("weights", "non_torch", "activation_peak", "kv_cache")
"""The parts of the engine's budget; the four sum to it (DESIGN.md, identities). All other terms lie outside."""
RESERVED = "activation_peak"
"""Reserved for a full batch: a load that answers once uses almost nothing of it."""
REST = "rest"
_HATCHED = {RESERVED: 2, REST: 12}
_COLOURS = (0, 1, 9, 3, 4, 5, 6, 7, 8, 10, 11)
_NAMED_PARTS = 6


@dataclass(frozen=True, slots=True)
class Row:
    """One term in bytes; None if it is not predicted, or not measured separately."""

    name: str
    inside: bool
    predicted: int | None
    measured: int | None
    source: str = ""

    @property
    def reserved(self) -> bool:
        return self.name == RESERVED

    def colour(self, number: int) -> int:
        """The colour of the row with this number, as its class in style.css; memory that is not in use is hatched."""
        return _HATCHED.get(self.name, _COLOURS[number % len(_COLOURS)])


@dataclass(frozen=True, slots=True)
class Memory:
    """A card's memory in bytes.

    Attributes:
        budget: the engine's; None without one.
        rows: those of the budget first, so that they end at its line.
        peak_predicted, peak_measured: of the whole card; None if unknown.
    """

    total: int
    budget: int | None
    rows: tuple[Row, ...]
    peak_predicted: int | None
    peak_measured: int | None

    @property
    def bars(self) -> tuple[tuple[str, tuple[tuple[int, Row, int], ...]], ...]:
        """The bars: a name, and (number of the row, row, bytes) from left to right. In the measured bar, terms that were not measured
        separately have their predicted size, and the rest is what remains."""
        predicted = self._segments(row.predicted for row in self.rows)
        if self.peak_measured is None:
            return (("predicted", predicted),)
        measured = self._segments(row.predicted if row.measured is None else row.measured for row in self.rows)
        return (("predicted", predicted), ("measured", measured))

    def _segments(self, sizes: Iterable[int | None]) -> tuple[tuple[int, Row, int], ...]:
        numbered = enumerate(zip(self.rows, sizes, strict=True))
        return tuple((number, row, size) for number, (row, size) in numbered if size is not None and size > 0)

    @property
    def width(self) -> int:
        """The length of the bars: the card, or more if more is needed."""
        return max(self.total, *(sum(size for *_, size in segments) for _, segments in self.bars))


def memory_of(prediction: Prediction, readings: Mapping[str, Reading], used_before: int | None = None) -> Memory | None:
    """The card's memory as predicted and as logged; None for a load whose memory is not predicted by terms.

    Args:
        used_before: bytes in use on the card before the load, as the engine read them; None if unknown.
    """
    account, figures = prediction.account, prediction.figures
    if account is None or figures.gpu_total_bytes is None:
        return None
    rows = [*_inside(prediction, readings), *_outside(prediction, readings, used_before)]
    peak = _value(readings, "peak_device_bytes")
    return Memory(
        total=figures.gpu_total_bytes,
        budget=figures.budget_bytes,
        rows=(*rows, *_rest(rows, peak)),
        peak_predicted=account.peak.num_bytes,
        peak_measured=peak,
    )


def _value(readings: Mapping[str, Reading], attribute: str) -> int | None:
    reading = readings.get(attribute)
    return None if reading is None else int(reading.value)


def _inside(prediction: Prediction, readings: Mapping[str, Reading]) -> Iterator[Row]:
    sources = {part.name: part for part in prediction.memory.peak.parts}
    for name in INSIDE:
        predicted = getattr(prediction.figures, f"{name}_bytes")
        if predicted is None and name in sources:
            predicted = sources[name].num_bytes
        source = sources[name].source if name in sources else ""
        if name == RESERVED:
            source = "the engine's profile run of a full batch"
        yield Row(name, inside=True, predicted=predicted, measured=_value(readings, f"{name}_bytes"), source=source)


def _outside(prediction: Prediction, readings: Mapping[str, Reading], used_before: int | None) -> Iterator[Row]:
    known = Figures.__dataclass_fields__
    for part in prediction.memory.peak.parts:
        if part.name == "kv_cache":
            rounding = part.num_bytes - (prediction.figures.kv_cache_bytes or 0)
            if rounding > 0:
                source = "torch's allocator rounds each layer's tensor up"
                yield Row("kv_cache, rounded up", inside=False, predicted=rounding, measured=None, source=source)
        if part.name in INSIDE:
            continue
        attribute = f"{part.name}_bytes"
        measured = _value(readings, attribute) if attribute in known else None
        measured = used_before if part.name == "context" else measured
        yield Row(part.name, inside=False, predicted=part.num_bytes, measured=measured, source=source_of(part))


def source_of(term: Term) -> str:
    """The source of a term's formula; for a sum, the names of its parts."""
    return term.source or shortlist([part.name for part in term.parts], _NAMED_PARTS, ", and {} more")


def _rest(rows: Iterable[Row], peak: int | None) -> Iterator[Row]:
    """What the measured peak has beyond all terms, mostly torch's cache; nothing if it was not measured."""
    if peak is None:
        return
    held = sum((row.predicted or 0) if row.measured is None else row.measured for row in rows if not row.reserved)
    source = "the rest of the peak: slack of torch's cache, and rounding"
    yield Row(REST, inside=False, predicted=None, measured=peak - held, source=source)
