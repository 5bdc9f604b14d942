"""Predicted memory of training against `loadcheck train` on an H200, 14 trainings of seven models, all but three of sizes never measured before.

NVIDIA H200, driver 580.159.04, 2026-11-29, commits d356094 and (from the tenth on) 8af0fa8, synthetic weights, three steps each.
"""

import csv
import json

import pytest

from loadcheck import cli
from tests.conftest import ROOT

pytestmark = pytest.mark.xdist_group("training")  # one process: what is predicted once is kept
TOTAL_BYTES = 150_109_880_320

with (ROOT / "tests" / "training" / "h200.tsv").open(encoding="utf-8") as file:
    ROWS = list(csv.DictReader(file, delimiter="\t"))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["case"])
def test_a_training_takes_what_was_predicted(row: dict[str, str], capsys: pytest.CaptureFixture[str]):
    """torch's peak to the byte, in SFT and in GRPO; the card's within 0.5 %."""
    card = ["--gpu", "H200", "--gpu-total-bytes", str(TOTAL_BYTES), "--gpu-free-bytes", row["device_free_bytes"],
            "--ram-available-bytes", row["ram_available_bytes"]]  # fmt: skip
    assert cli.run(["predict", "--weights", "synthetic", *card, *row["flags"].split(), "--json"]) == 0
    predicted = json.loads(capsys.readouterr().out)["bytes"]
    assert predicted["train_peak_allocated_bytes"] == int(row["peak_allocated_bytes"])
    device = max(int(row["device_before_steps_bytes"]), int(row["device_in_steps_bytes"]))
    assert predicted["train_peak_device_bytes"] == pytest.approx(device, rel=0.005)
