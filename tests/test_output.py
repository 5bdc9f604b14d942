"""The layout of the output: no wrapping in a pipe, and no broken figures on a narrow terminal."""

import codecs
import re
from io import StringIO
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from loadcheck import cli
from loadcheck.encoding import stand_in
from loadcheck.show.verdict import summary
from loadcheck.terminal import Name, print_item, print_table, shortened
from loadcheck.verdict import Check, Finding, Status, Verdict
from tests.conftest import RUNS

T4 = str(RUNS / "t4_llama31-8b_reference.txt")
RUN = str(RUNS / "h100" / "reference-train3")
COMMANDS = {
    "check": ["check", T4],
    "parse": ["parse", T4],
    "report": ["report", RUN],
    "predict": ["predict", "--gpu", "T4", "--tree", "--ram-available-bytes", "12GiB"],
    "fit": ["fit", "--gpu", "T4", "--ram-available-bytes", "12GiB"],
}
WIDTHS = (80, 50, 40)
SHOWN: dict[tuple[str, int | None], str] = {}
"""Each command's output by width, None without one, once it was run."""
NUMBER = re.compile(r"(?<![\w.,/-])[-+]?\d+(?:,\d{3})*(?:\.\d+)?x?(?![\w/-])")


@pytest.fixture(autouse=True)
def no_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """The width is set by the test."""
    monkeypatch.delenv("COLUMNS", raising=False)


def _shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert cli.run(list(arguments)) in (0, 1)
    return capsys.readouterr().out


def _shown_at(
    width: int | None, command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> str:
    """The output of one of COMMANDS on a terminal of this width, or in a pipe."""
    if (command, width) not in SHOWN:
        if width is not None:
            monkeypatch.setenv("COLUMNS", str(width))
        SHOWN[command, width] = _shown(capsys, *COMMANDS[command])
    return SHOWN[command, width]


def _table(width: int, *rows: tuple[str, ...], justify: str = "lrl") -> list[str]:
    out = Console(file=StringIO(), width=width)
    print_table(out, ("figure", "measured", ""), justify, rows)
    return out.file.getvalue().splitlines()  # type: ignore[attr-defined]


def test_a_sentence_in_a_pipe_is_one_line(capsys: pytest.CaptureFixture[str]):
    """In a pipe a sentence is one line of any length, so grep finds it."""
    out = _shown(capsys, "predict", "--gpu", "T4", "--max-seq-length", "100")
    assert any("is below the number of sequences 160; raise max_seq_length to 160" in line for line in out.splitlines())


def test_columns_is_the_width_of_a_pipe(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """With COLUMNS set, a pipe is wrapped like a terminal of that width."""
    monkeypatch.setenv("COLUMNS", "50")
    out = _shown(capsys, "predict", "--gpu", "T4", "--max-seq-length", "100")
    assert max(map(len, out.splitlines())) <= 50
    assert "is below the number of sequences 160; raise max_seq_length to 160" in " ".join(out.split())


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("command", COMMANDS)
def test_no_number_is_broken_at_any_width(
    command: str, width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """A narrow terminal shows the same numbers as a wide one, in other lines, and the words that judge them."""
    wide = _shown_at(None, command, capsys, monkeypatch)
    narrow = _shown_at(width, command, capsys, monkeypatch)
    assert set(NUMBER.findall(wide)) <= set(NUMBER.findall(narrow))
    assert re.findall(r"\b(?:ok|FAIL|PASS|FITS)\b", wide) == re.findall(r"\b(?:ok|FAIL|PASS|FITS)\b", narrow)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("command", COMMANDS)
def test_no_line_is_longer_than_the_terminal(
    command: str, width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """No line exceeds the terminal, except commands, their flags and paths, which people copy."""
    long = [line for line in _shown_at(width, command, capsys, monkeypatch).splitlines() if len(line) > width]
    assert all(line.startswith(("  --", "  loadcheck ")) or " " not in line for line in long), long


@pytest.mark.parametrize("width", WIDTHS)
def test_flags_are_one_line(width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """The flags that fit proposes can be copied from a narrow terminal."""
    command = "  loadcheck load llama31-8b-instruct-4bit --max-seq-length 23296 --gpu-memory-utilization 0.74"
    assert command in _shown_at(width, "fit", capsys, monkeypatch).splitlines()


def test_a_name_is_shortened_and_a_figure_is_not():
    """A long name beside figures loses its middle, so that the columns fit the terminal."""
    rows = (
        ("model", Name("unsloth/meta-llama-3.1-8b-instruct-bnb-4bit"), "ok"),
        ("total_params", "8,114,147,328", "ok"),
    )
    assert _table(40, *rows) == [
        "figure                      measured",
        "model         unsloth/met…t-bnb-4bit  ok",
        "total_params           8,114,147,328  ok",
    ]  # fmt: skip


def test_a_table_without_room_becomes_lines():
    """Without room, a table's rows become lines with the values below; a value longer than the terminal stays whole."""
    assert _table(20, ("figure_of_some_length", "1.25", "FAIL"), ("short", "2", ""), ("x", "123456789012345678901", "ok")) == [
        "figure_of_some_length  FAIL", "  measured 1.25", "short  measured 2", "x  ok", "  measured 123456789012345678901",
    ]  # fmt: skip


def test_a_shortened_text_keeps_both_ends():
    """A shortened text keeps both ends, measured in terminal columns; wide characters count two."""
    assert shortened("abcdefghij", 10) == "abcdefghij"
    assert shortened("abcdefghij", 6) == "abc…ij"
    assert cell_len(shortened("模型" * 20, 13)) == 13
    assert shortened("abc", 1) == "…"


def test_further_lines_are_indented():
    """An item's text is indented, or below its lead if there is no room beside it."""
    out = Console(file=StringIO(), width=40)
    print_item(out, Text("ok  disk"), "one two three four five six seven eight")
    print_item(out, Text("a lead that is longer"), "one two")
    assert out.file.getvalue() == (  # type: ignore[attr-defined]
        "ok  disk one two three four five six\n         seven eight\na lead that is longer\n  one two\n"
    )


def test_a_finding_names_its_path_unbroken(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    """A finding under a long path is named by file and line, unbroken in a pipe."""
    log = tmp_path / ("a" * 100 + ".txt")
    log.write_text(Path(T4).read_text().replace("# CUDA blocks: 1353", "# CUDA blocks: 1354"))
    assert re.search(rf"{log.name}:\d+", _shown(capsys, "check", str(log)))


def test_other_characters_are_escaped():
    """A character without a replacement is escaped; if the encoding has it, it is printed."""
    codecs.register_error("stand-in", stand_in)
    assert "2 → 1 … 模 é".encode("latin-1", "stand-in") == b"2 -> 1 .. \\u6a21 \xe9"


@pytest.mark.parametrize(
    ("ends", "message"),
    [
        ("weights_gib ok, weights_gib ok, budget_gib ok, peft ok", "4 checks ok (3 on 2 figures, 1 on versions, settings and the run)"),
        ("weights_gib ok, weights_gib fail", "1 check failed, 1 ok (2 on 1 figure)"),
        ("peft refused, peft fail, peft fail", "2 checks failed, 1 refused (3 on versions, settings and the run)"),
        ("weights_gib ok, ranges skipped", "1 check ok (1 on 1 figure), 1 skipped: ranges, as noted"),
        ("ranges skipped", "1 skipped: ranges, as noted"),
    ],
)  # fmt: skip
def test_the_verdict_counts_its_checks(ends: str, message: str):
    """The verdict counts the checks of figures, the other checks, and those skipped."""
    pairs = [each.split() for each in ends.split(", ")]
    assert (
        summary(Verdict(tuple(Finding(figure=name, check=Check.MODEL, status=Status(end)) for name, end in pairs)))
        == message
    )


def test_a_note_names_what_was_skipped(capsys: pytest.CaptureFixture[str]):
    """Each check counted as skipped has a note with its name and the reason."""
    out = _shown(capsys, "check", str(RUNS / "h100" / "15-sequences"))
    skipped = re.search(r"(\d) skipped: (\w+), as noted", out)
    assert skipped is not None and f"\nNote, {skipped[2]}: " in out
