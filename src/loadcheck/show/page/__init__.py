"""Self-contained pages: one file each, without scripts or addresses. Content of logs is always plain text."""

from __future__ import annotations

from loadcheck.show.page.fleet import fleet_page
from loadcheck.show.page.others import comparison_page, matrix_page, prediction_page
from loadcheck.show.page.run import run_page
from loadcheck.show.page.training import trained_part, training_page

__all__ = [
    "comparison_page",
    "fleet_page",
    "matrix_page",
    "prediction_page",
    "run_page",
    "trained_part",
    "training_page",
]
