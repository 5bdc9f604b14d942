"""What differs between loads: settings, versions, machine and figures, each moved figure by the change that moved it."""

from __future__ import annotations

from loadcheck.comparing.comparison import Change, Comparison, compare
from loadcheck.comparing.difference import ROUNDING, Difference, Part
from loadcheck.comparing.subject import Subject, read_subject

__all__ = ["ROUNDING", "Change", "Comparison", "Difference", "Part", "Subject", "compare", "read_subject"]
