"""The published comparison of predictions and logs is up to date."""

import subprocess
import sys

from tests.conftest import ROOT


def test_the_evidence_table_is_up_to_date():
    """docs/evidence.md is what scripts/evidence.py writes."""
    command = [sys.executable, "scripts/evidence.py", "--check"]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == 0, (
        "run: .venv/dev/bin/python scripts/evidence.py"
    )


def test_misses_are_explained():
    """Only a figure with a band, or of a vLLM that counts differently, differs in a printed digit."""
    for line in (ROOT / "docs" / "evidence.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| ") and len(cells) == 12 and cells[2].startswith("0.7"):
            weights, activation, _, _, cpu_blocks, graphs, _ = cells[5:]
            assert not any(cell.endswith("!") for cell in (weights, activation, cpu_blocks, graphs)), line
