"""Two H200 of one host, loaded side by side by `fleet run` (driver 580.159.04, 2026-11-30, commit 45edf1a): kept, and judged again."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from loadcheck import cli
from tests.conftest import ROOT

KEPT = ROOT / "tests" / "runs" / "fleet-of-2-h200"


def _gathered(folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    code = cli.run(["fleet", "gather", str(folder), "--jobs", "1", "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_each_card_passes_beside_the_other(capsys: pytest.CaptureFixture[str]):
    """Two nodes on two cards, at the same time, pass with equal figures."""
    code, output = _gathered(KEPT, capsys)
    assert (code, output["counts"]) == (0, {"pass": 2})
    runs = [json.loads(path.read_text()) for path in KEPT.glob("*/*/run.json")]
    assert len({run["machine"]["gpu"]["uuid"] for run in runs}) == 2
    assert max(run["started_at"] for run in runs) < min(run["ended_at"] for run in runs)


def test_a_changed_digit_of_one_card_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """A figure of one card's log differs from the other's: the fleet fails."""
    shutil.copytree(KEPT, tmp_path / "kept")
    log = next((tmp_path / "kept" / "h200-0").glob("*/load.log"))
    text = log.read_text()
    assert "took 5.3541 GB" in text
    log.write_text(text.replace("took 5.3541 GB", "took 5.3542 GB"))
    code, output = _gathered(tmp_path / "kept", capsys)
    assert (code, output["counts"]) == (1, {"fail": 1, "pass": 1})
