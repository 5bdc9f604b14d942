"""Compares what was measured with what was predicted from this run's own free memory and settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from loadcheck.figures import Reading, Value
from loadcheck.findings.evidence import Evidence
from loadcheck.findings.finding import Check, Finding, Status
from loadcheck.predict.band import Band
from loadcheck.verdict.contradictions import off_card

# Inputs of the prediction.
_NOT_COMPARED = {"model", "gpu_name"}
OTHER_THAN_PREDICTED = (
    "the stack, the model or a setting is not what the prediction was made from; compare the lines above"
)


def check_model(evidence: Evidence) -> Iterator[Finding]:
    """Every predicted figure that the log states: equal to the printed digit, or within its physical band."""
    predicted = evidence.predicted
    if predicted is None:
        if evidence.prediction_note:
            yield Finding(figure="prediction", check=Check.MODEL, status=Status.SKIPPED, why=evidence.prediction_note)
        return
    bands = _bands(evidence)
    for attribute, value in predicted.known().items():
        reading = evidence.attempt.reading(attribute)
        if reading is None or attribute in _NOT_COMPARED:
            continue
        yield _compared(evidence, reading, value, bands.get(attribute))


def _compared(evidence: Evidence, reading: Reading, predicted: Value, band: Band | None) -> Finding:
    """One figure: equal to the printed digit without a band, otherwise within it."""
    spec = reading.spec
    low = high = None
    if band is None:
        ok, why = reading.agrees(predicted), "predicted to the printed digit"
    else:
        assert not isinstance(reading.value, str)
        ok, why = band.low - reading.tolerance <= reading.value <= band.high + reading.tolerance, band.why
        low, high = (round(float(spec.to_edge(edge)), spec.decimals or 0) for edge in (band.low, band.high))
    remedy = "" if ok else OTHER_THAN_PREDICTED
    edge = spec.to_edge(predicted)
    return evidence.finding(reading, Check.MODEL, ok=ok, predicted=edge, low=low, high=high, why=why, remedy=remedy)


def _bands(evidence: Evidence) -> Mapping[str, Band]:
    """The band of each figure that has one; that of the card's peak begins at 0 if the peak is known only from below."""
    bands = evidence.bands or {}
    peak = bands.get("peak_device_bytes")
    if peak is None or not any(off_card(evidence)):
        return bands
    return {**bands, "peak_device_bytes": replace(peak, low=0.0, why="some of it was not on the card")}
