"""Compares what was measured with what was predicted from this run's own free memory and settings."""

from __future__ import annotations

from collections.abc import Iterator

from loadcheck.figures import figure_specs
from loadcheck.findings.evidence import Evidence
from loadcheck.findings.finding import Check, Finding, Status

# Inputs of the prediction.
_NOT_COMPARED = {"model", "gpu_name"}


def check_model(evidence: Evidence) -> Iterator[Finding]:
    """Every predicted figure that the log states: equal to the printed digit, or within its physical band."""
    predicted = evidence.predicted
    if predicted is None:
        if evidence.prediction_note:
            yield Finding(figure="prediction", check=Check.MODEL, status=Status.SKIPPED, why=evidence.prediction_note)
        return
    bands = evidence.bands or {}
    for attribute, value in predicted.known().items():
        reading = evidence.attempt.reading(attribute)
        if reading is None or attribute in _NOT_COMPARED:
            continue
        spec = figure_specs()[attribute]
        band = bands.get(attribute)
        if band is None:
            ok = reading.agrees(value)
            low = high = None
            why = "predicted to the printed digit"
        else:
            assert not isinstance(reading.value, str)
            ok = band.low - reading.tolerance <= reading.value <= band.high + reading.tolerance
            low, high = (round(float(spec.to_edge(edge)), spec.decimals or 0) for edge in (band.low, band.high))
            why = band.why
        yield evidence.finding(
            reading,
            Check.MODEL,
            ok,
            predicted=spec.to_edge(value),
            low=low,
            high=high,
            why=why,
            remedy=""
            if ok
            else "the stack, the model or a setting is not what the prediction was made from; compare the lines above",
        )
