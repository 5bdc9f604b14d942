"""How output looks: nothing is wrapped where nobody watches, and no figure is broken on a narrow terminal."""

import codecs
import os
import re
import subprocess
import sys
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
WIDE: dict[str, str] = {}
"""What each command prints without a width, once it was run."""
NUMBER = re.compile(r"(?<![\w.,/-])[-+]?\d+(?:,\d{3})*(?:\.\d+)?x?(?![\w/-])")


@pytest.fixture(autouse=True)
def no_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """The width is what a test says."""
    monkeypatch.delenv("COLUMNS", raising=False)


def _shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert cli.run(list(arguments)) in (0, 1)
    return capsys.readouterr().out


def _table(width: int, *rows: tuple[str, ...], justify: str = "lrl") -> list[str]:
    out = Console(file=StringIO(), width=width)
    print_table(out, ("figure", "measured", ""), justify, rows)
    return out.file.getvalue().splitlines()  # type: ignore[attr-defined]


def test_a_sentence_in_a_pipe_is_one_line(capsys: pytest.CaptureFixture[str]):
    """Where stdout is no terminal, what is to be done can be found by grep, whatever its length."""
    out = _shown(capsys, "predict", "--gpu", "T4", "--max-seq-length", "100")
    assert any("is below the number of sequences 160; raise max_seq_length to 160" in line for line in out.splitlines())


def test_columns_is_the_width_of_a_pipe(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """COLUMNS set: sentences are wrapped there as on a terminal of that width."""
    monkeypatch.setenv("COLUMNS", "50")
    out = _shown(capsys, "predict", "--gpu", "T4", "--max-seq-length", "100")
    assert max(map(len, out.splitlines())) <= 50
    assert "is below the number of sequences 160; raise max_seq_length to 160" in " ".join(out.split())


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("command", COMMANDS)
def test_every_number_is_whole_at_every_width(
    command: str, width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """The numbers of a narrow terminal are those of a wide one, in whatever lines; and the words that judge them are there."""
    if command not in WIDE:
        WIDE[command] = _shown(capsys, *COMMANDS[command])
    wide = WIDE[command]
    monkeypatch.setenv("COLUMNS", str(width))
    narrow = _shown(capsys, *COMMANDS[command])
    assert set(NUMBER.findall(wide)) <= set(NUMBER.findall(narrow))
    assert re.findall(r"\b(?:ok|FAIL|PASS|FITS)\b", wide) == re.findall(r"\b(?:ok|FAIL|PASS|FITS)\b", narrow)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("command", COMMANDS)
def test_no_line_is_longer_than_the_terminal(
    command: str, width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """But for a command, its flags and a path, which people copy."""
    monkeypatch.setenv("COLUMNS", str(width))
    long = [line for line in _shown(capsys, *COMMANDS[command]).splitlines() if len(line) > width]
    assert all(line.startswith(("  --", "  loadcheck ")) or " " not in line for line in long), long


@pytest.mark.parametrize("width", WIDTHS)
def test_flags_are_one_line(width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """What fit proposes can be copied from a narrow terminal."""
    monkeypatch.setenv("COLUMNS", str(width))
    command = "  loadcheck load llama31-8b-instruct-4bit --max-seq-length 23296 --gpu-memory-utilization 0.74"
    assert command in _shown(capsys, "fit", "--gpu", "T4").splitlines()


def test_a_name_is_shortened_and_a_figure_is_not():
    """A long name beside figures loses its middle, so that the columns keep to the terminal."""
    rows = (
        ("model", Name("unsloth/meta-llama-3.1-8b-instruct-bnb-4bit"), "ok"),
        ("total_params", "8,114,147,328", "ok"),
    )
    assert _table(40, *rows) == [
        "figure                      measured",
        "model         unsloth/met…t-bnb-4bit  ok",
        "total_params           8,114,147,328  ok",
    ]  # fmt: skip


def test_a_table_with_no_room_is_lines():
    """Each row by itself: on one line, or its values below it; a value longer than the terminal is whole all the same."""
    assert _table(20, ("figure_of_some_length", "1.25", "FAIL"), ("short", "2", ""), ("x", "123456789012345678901", "ok")) == [
        "figure_of_some_length  FAIL", "  measured 1.25", "short  measured 2", "x  ok", "  measured 123456789012345678901",
    ]  # fmt: skip


def test_a_shortened_text_keeps_its_ends_and_its_width():
    """Both ends are there, by columns of the terminal; wide characters count two."""
    assert shortened("abcdefghij", 10) == "abcdefghij"
    assert shortened("abcdefghij", 6) == "abc…ij"
    assert cell_len(shortened("模型" * 20, 13)) == 13
    assert shortened("abc", 1) == "…"


def test_further_lines_stand_below_the_first():
    """An item's text is hung in; where there is no room beside its lead, below it."""
    out = Console(file=StringIO(), width=40)
    print_item(out, Text("ok  disk"), "one two three four five six seven eight")
    print_item(out, Text("a lead that is longer"), "one two")
    assert out.file.getvalue() == (  # type: ignore[attr-defined]
        "ok  disk one two three four five six\n         seven eight\na lead that is longer\n  one two\n"
    )


def test_what_is_read_is_named_by_its_path(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    """A log under a long path: the place of a finding is its file and line, not broken in a pipe."""
    log = tmp_path / ("a" * 100 + ".txt")
    log.write_text(Path(T4).read_text().replace("# CUDA blocks: 1353", "# CUDA blocks: 1354"))
    assert re.search(rf"{log.name}:\d+", _shown(capsys, "check", str(log)))


@pytest.mark.parametrize(("command", "code"), [("fit", 0), ("no-such-→", 2)])
def test_a_terminal_in_ascii_ends_no_command(command: str, code: int):
    """What ASCII lacks is printed in other characters, and the exit code is the command's own."""
    arguments = COMMANDS.get(command, [command])
    done = subprocess.run(
        [sys.executable, "-m", "loadcheck", *arguments], capture_output=True, check=False,
        env=dict(os.environ, PYTHONIOENCODING="ascii", COLUMNS="60"),
    )  # fmt: skip
    assert (done.returncode, b"Traceback" in done.stderr) == (code, False), done.stderr
    assert command != "fit" or b"rank 32 -> 16" in done.stdout
    assert done.stdout.isascii()


def test_what_has_no_stand_in_is_escaped():
    """Any other character is the escape that says which; where the encoding has it, it is itself."""
    codecs.register_error("stand-in", stand_in)
    assert "2 → 1 … 模 é".encode("latin-1", "stand-in") == b"2 -> 1 .. \\u6a21 \xe9"


@pytest.mark.parametrize(
    ("ends", "said"),
    [
        ("weights_gib ok, weights_gib ok, budget_gib ok, peft ok", "4 checks ok (3 on 2 figures, 1 on versions, settings and the run)"),
        ("weights_gib ok, weights_gib fail", "1 check failed, 1 ok (2 on 1 figure)"),
        ("peft refused, peft fail, peft fail", "2 checks failed, 1 refused (3 on versions, settings and the run)"),
        ("weights_gib ok, ranges skipped", "1 check ok (1 on 1 figure), 1 skipped: ranges, as noted"),
        ("ranges skipped", "1 skipped: ranges, as noted"),
    ],
)  # fmt: skip
def test_the_verdict_says_what_it_counts(ends: str, said: str):
    """Checks are more than the rows of figures: how many are of figures, how many of what else, and what was skipped."""
    pairs = [each.split() for each in ends.split(", ")]
    assert (
        summary(Verdict(tuple(Finding(figure=name, check=Check.MODEL, status=Status(end)) for name, end in pairs)))
        == said
    )


def test_a_note_names_what_was_skipped(capsys: pytest.CaptureFixture[str]):
    """What the count calls skipped has a note of that name with the reason."""
    out = _shown(capsys, "check", str(RUNS / "h100" / "15-sequences"))
    skipped = re.search(r"(\d) skipped: (\w+), as noted", out)
    assert skipped is not None and f"\nNote, {skipped[2]}: " in out
