"""Compares loads: their settings, versions, machines and figures, and explains each moved figure by the changes that moved it."""

from __future__ import annotations

from pathlib import Path

from loadcheck.comparing.comparison import Change, Comparison, compare
from loadcheck.comparing.difference import ROUNDING, Difference, Part
from loadcheck.comparing.document import of_document, read_document
from loadcheck.comparing.evidence import of_run_or_log
from loadcheck.comparing.subject import Subject

__all__ = ["ROUNDING", "Change", "Comparison", "Difference", "Part", "Subject", "compare", "read_subject"]


def read_subject(target: Path) -> Subject:
    """A run folder, a log, or the document of `predict --json` in a file that ends in .json.

    BadInput if it is none of these.
    """
    document = None if target.is_dir() or target.suffix != ".json" else read_document(target)
    return of_run_or_log(target) if document is None else of_document(str(target), document)
