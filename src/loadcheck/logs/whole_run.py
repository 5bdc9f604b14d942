"""Copies what is printed once for a whole run to each of its attempts."""

from __future__ import annotations

import math

from loadcheck.logs.attempt import Attempt
from loadcheck.logs.dialect import Dialect
from loadcheck.logs.formats import RUN_STAGES


def inherit(dialect: Dialect, attempt: Attempt, other: Attempt) -> None:
    """Copy to `attempt` what `other` printed once for the whole run, where `attempt` lacks it or has it less precisely."""
    own = {
        attribute: reading.tolerance for attribute in _attributes(attempt) if (reading := attempt.reading(attribute))
    }
    inherited_figures: set[str] = set()
    lines: set[int] = set()
    for format in dialect.formats:
        inherited = format.stage in RUN_STAGES and not format.retries
        if inherited and other.formats[format.name] and not attempt.formats[format.name]:
            attempt.formats[format.name] = other.formats[format.name]
            attempt.first_lines[format.name] = other.first_lines[format.name]
            inherited_figures |= {capture.attribute for capture in format.captures}
            lines.add(other.first_lines[format.name])
    attempt.readings.extend(
        reading
        for reading in other.readings
        if reading.attribute in inherited_figures
        and reading.line in lines
        and reading.tolerance < own.get(reading.attribute, math.inf)
    )


def _attributes(attempt: Attempt) -> set[str]:
    return {reading.attribute for reading in attempt.readings}
