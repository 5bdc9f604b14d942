"""Results of `make faults`, kept for docs/faults.md (scripts/faults.py)."""

import json
from collections.abc import Iterator
from dataclasses import asdict

import pytest

from tests.conftest import ROOT
from tests.faults.results import Seen

RESULTS = ROOT / "build" / "faults" / "results.json"


class Results:
    """Every run that passed its checks, and every kind that this machine cannot have."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.skipped: dict[str, str] = {}


@pytest.fixture(scope="session")
def results() -> Iterator[Results]:
    """Collects results, and writes them at the end."""
    found = Results()
    yield found
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps({"seen": [asdict(seen) for seen in found.seen], "skipped": found.skipped}, indent=1))
