"""Predicted memory of training against `loadcheck train` on an H200: 20 trainings of seven models, all but three with settings never measured before.

NVIDIA H200, driver 580.159.04, 2026-11-29, synthetic weights, three steps each; commit d356094, from the tenth 8af0fa8, from the fifteenth
e428a97. "filled": another process held the card except for the memory stated as free.
"""

import csv
import json

import pytest

from loadcheck import cli
from tests.conftest import ROOT

pytestmark = pytest.mark.xdist_group("training")  # cached, as one process predicts them repeatedly
TOTAL_BYTES = 150_109_880_320

with (ROOT / "tests" / "training" / "h200.tsv").open(encoding="utf-8") as file:
    ROWS = list(csv.DictReader(file, delimiter="\t"))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["case"])
def test_a_training_needs_the_predicted_memory(row: dict[str, str], capsys: pytest.CaptureFixture[str]):
    """torch's peak equals the prediction to the byte, with SFT and GRPO; the card's is within 0.5 %."""
    card = ["--gpu", "H200", "--gpu-total-bytes", str(TOTAL_BYTES), "--gpu-free-bytes", row["device_free_bytes"],
            "--ram-available-bytes", row["ram_available_bytes"]]  # fmt: skip
    assert cli.run(["predict", "--weights", "synthetic", *card, *row["flags"].split(), "--json"]) == 0
    predicted = json.loads(capsys.readouterr().out)["bytes"]
    assert predicted["train_peak_allocated_bytes"] == int(row["peak_allocated_bytes"])
    device = max(int(row["device_before_steps_bytes"]), int(row["device_in_steps_bytes"]))
    assert predicted["train_peak_device_bytes"] == pytest.approx(device, rel=0.005)


GRPO = ("--method", "grpo", "--model", "llama-3.1-8b-instruct", "--lora-r", "16", "--max-lora-rank", "16", "--max-seq-length", "512",
        "--gpu-memory-utilization", "0.5", "--max-prompt-length", "119", "--max-completion-length", "128", "--weights", "synthetic",
        "--gpu", "H200", "--gpu-total-bytes", str(TOTAL_BYTES), "--gpu-free-bytes", "25221922816", "--ram-available-bytes", "260851281920")  # fmt: skip
"""On a card with 23.5 GiB free (commit e428a97), with 8 generations each: 7 and 8 prompts ran, and 9 ran out of memory."""


SFT = ("--method", "sft", "--no-fast-inference", "--model", "qwen2.5-1.5b-instruct", "--lora-r", "16", "--max-lora-rank", "16", "--weights",
       "synthetic", "--max-seq-length", "2048", "--train-seq-length", "2048", "--gpu", "H200", "--gpu-total-bytes", str(TOTAL_BYTES),
       "--gpu-free-bytes", "12337086464", "--ram-available-bytes", "268233654272")  # fmt: skip
"""With 11.5 GiB free (commit 1a506e1): 48 rows ran, with 3,670,016 bytes left, and 49 ran out of memory."""


@pytest.mark.parametrize(
    ("flags", "rows", "fits", "with_gaps"),
    [
        (GRPO, 7, True, True),
        (GRPO, 8, True, False),
        (GRPO, 9, False, False),
        (SFT, 47, True, True),
        (SFT, 48, True, False),
        (SFT, 49, False, False),
    ],
)
def test_the_predicted_edge_is_where_the_card_ran_out_of_memory(
    flags: tuple[str, ...], rows: int, fits: bool, with_gaps: bool, capsys: pytest.CaptureFixture[str]
):
    """What ran fits, what released gaps is predicted to, and what ran out of memory does not fit."""
    code = cli.run(["predict", *flags, "--per-device-train-batch-size", str(rows), "--json"])
    training = json.loads(capsys.readouterr().out)["training"]
    assert (code == 0, training["fits"], training["fits_with_gaps"]) == (fits, fits, with_gaps)
