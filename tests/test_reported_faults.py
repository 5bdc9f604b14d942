"""Inputs that once got wrong answers, each with the right one: tests/reported/INDEX.tsv."""

import csv
import json
import os
import shlex
from pathlib import Path

import pytest

from loadcheck import cli

REPORTED = Path(__file__).parent / "reported"


def _rows() -> list[dict[str, str]]:
    with (REPORTED / "INDEX.tsv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


ROWS = _rows()


@pytest.mark.parametrize("row", ROWS, ids=[row["input"] for row in ROWS])
def test_a_reported_input_gets_the_right_answer(row: dict[str, str], capsys: pytest.CaptureFixture[str]):
    """The exit code and words are right, there is no traceback, and JSON output is JSON."""
    pipe = _pipe(REPORTED / row["input"]) if "PIPE" in row["command"] else ""
    arguments = row["command"].replace("INPUT", shlex.quote(str(REPORTED / row["input"]))).replace("PIPE", pipe)
    code = cli.run(shlex.split(arguments))
    captured = capsys.readouterr()
    output = " ".join((captured.out + captured.err).split())
    assert (str(code) in row["exit"].split(), "Traceback" in captured.err) == (True, False), output
    for words in row["words"].split(" | "):
        if words == "JSON":
            json.loads(captured.out, parse_constant=lambda constant: pytest.fail(f"{constant} is no JSON"))
        else:
            assert words in output


def _pipe(path: Path) -> str:
    """The file through a pipe, named like a shell's `<(cat FILE)`; these files fit a pipe's buffer."""
    read, write = os.pipe()
    os.write(write, path.read_bytes())
    os.close(write)
    return f"/dev/fd/{read}"


def test_every_reported_input_is_in_the_index():
    """Every reported input has its answer in the index."""
    assert {row["input"] for row in ROWS} == {path.name for path in REPORTED.iterdir()} - {"INDEX.tsv"}
