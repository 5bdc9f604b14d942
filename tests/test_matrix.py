"""`predict --gpus`: the cards that hold a load or a training."""

import json
from typing import Any

import pytest

from loadcheck import cli
from loadcheck.predict.card import card_from_table
from loadcheck.predict.matrix import every_card
from loadcheck.specs.gpu import load_gpus
from loadcheck.units import to_gib

RAM = ["--ram-available-bytes", "64GiB"]


def _rows(capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[int, list[dict[str, Any]]]:
    code = cli.run(["predict", *RAM, "--json", *flags])
    return code, json.loads(capsys.readouterr().out)["cards"]


def _single(capsys: pytest.CaptureFixture[str], gpu: str, *flags: str) -> dict[str, Any]:
    cli.run(["predict", *RAM, "--json", "--gpu", gpu, *flags])
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("flags", [(), ("--model", "phi-4"), ("--max-seq-length", "16384")])
def test_each_card_is_predicted_as_alone(flags: tuple[str, ...], capsys: pytest.CaptureFixture[str]):
    """Fit, peaks and requests equal those of `predict --gpu`, in the given order."""
    code, rows = _rows(capsys, "--gpus", "T4, L4,H100", *flags)
    assert [row["gpu"] for row in rows] == ["T4", "L4", "H100"]
    for row in rows:
        alone = _single(capsys, row["gpu"], *flags)
        assert (row["fits"], row["peak_gib"]) == (alone["fits"], alone["figures"]["peak_device_gib"])
        assert row["max_concurrency"] == alone["figures"]["max_concurrency"]
        assert row["why_not"] == (alone["obstacles"][0]["what"] if alone["obstacles"] else "")
    assert code == (0 if any(row["fits"] for row in rows) else 1)


def test_all_means_every_known_card(capsys: pytest.CaptureFixture[str]):
    """ "all" is every known card, smallest first, without refused ones and those with unknown free memory."""
    _, rows = _rows(capsys, "--gpus", "all")
    assert [row["gpu"] for row in rows] == list(every_card())
    totals = [row["gpu_total_gib"] for row in rows]
    assert totals == sorted(totals) and len(rows) > 5
    assert all(load_gpus()[row["gpu"]].refused is None for row in rows)


def test_a_training_on_each_card(capsys: pytest.CaptureFixture[str]):
    """With --method the peak is the training's, and what is short is stated."""
    _, rows = _rows(capsys, "--gpus", "T4,H100", "--method", "sft", "--per-device-train-batch-size", "64")
    assert [row["fits"] for row in rows] == [False, True]
    assert "the training needs" in rows[0]["why_not"]
    assert rows[1]["left_gib"] == round(to_gib(card_from_table("H100").total_bytes) - rows[1]["peak_gib"], 2)


def test_the_table_for_people(capsys: pytest.CaptureFixture[str]):
    """One row per card, with the reason if the card does not hold the load."""
    assert cli.run(["predict", *RAM, "--gpus", "T4,H100", "--model", "phi-4", "--max-seq-length", "8192"]) == 0
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines() if line.split()[2:3] in (["fits"], ["NO"])] == ["T4", "H100"]
    assert "T4: " in out


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--gpus", "T4,T5,X9"], "Error: --gpus: there is no GPU 'X9'"),
        (["--gpus", "T4", "--gpu", "L4"], "--gpus and --gpu exclude each other"),
        (["--gpus", " , "], "--gpus: names no card"),
        (["--gpus", "B200"], "hold code for; use a card of compute capability 7.5 to 9.0"),
        (
            ["--gpus", "T4,A6000"],
            "A6000: its memory is unknown; predict it alone, with --gpu A6000 and --gpu-free-bytes,",
        ),
        (["--gpus", "2080 Ti 20GB"], "with --gpu '2080 Ti 20GB' and --gpu-total-bytes and --gpu-free-bytes,"),
        (["smollm2-135m-cpu", "--gpus", "T4"], "runs on the CPU; leave --gpus out"),
        (["--gpus", "T4", "--no-fast-inference"], "loads without vLLM"),
    ],
)
def test_invalid_cards_are_refused(flags: list[str], words: str, capsys: pytest.CaptureFixture[str]):
    """Invalid cards give one line per problem and exit code 2."""
    assert cli.run(["predict", *RAM, *flags]) == 2
    assert words in capsys.readouterr().err


def test_the_longest_request_of_each_card_fits_and_a_longer_one_is_not_proposed(capsys: pytest.CaptureFixture[str]):
    """At the given utilization the longest request fits in `predict`, and with 256 tokens more `fit` proposes nothing with it."""
    for row in _rows(capsys, "--gpus", "T4,L4")[1]:
        longest = row["longest_tokens"]
        assert longest % 256 == 0
        assert _single(capsys, row["gpu"], "--max-seq-length", str(longest))["fits"]
        longer = ["--max-seq-length", str(longest + 256), "--gpu-memory-utilization", "0.6"]
        assert cli.run(["fit", *RAM, "--gpu", row["gpu"], *longer, "--json"]) == 1
        capsys.readouterr()
