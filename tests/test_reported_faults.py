"""Inputs that were once answered wrongly, each with its right answer: tests/reported/INDEX.tsv."""

import csv
from pathlib import Path

import pytest

from loadcheck import cli

REPORTED = Path(__file__).parent / "reported"


def _rows() -> list[dict[str, str]]:
    with (REPORTED / "INDEX.tsv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


ROWS = _rows()


@pytest.mark.parametrize("row", ROWS, ids=[row["input"] for row in ROWS])
def test_a_reported_input_is_answered_rightly(row: dict[str, str], capsys: pytest.CaptureFixture[str]):
    """The exit code is the right one, what is said holds the right words, and there is no traceback."""
    arguments = row["command"].replace("INPUT", str(REPORTED / row["input"])).split(" ")
    code = cli.run(arguments)
    captured = capsys.readouterr()
    said = " ".join((captured.out + captured.err).split())
    assert (code, "Traceback" in captured.err) == (int(row["exit"]), False), said
    for words in filter(None, row["words"].split(" | ")):
        assert words in said


def test_every_reported_input_is_in_the_index():
    """No input is left without its right answer."""
    assert {row["input"] for row in ROWS} == {path.name for path in REPORTED.iterdir()} - {"INDEX.tsv"}
