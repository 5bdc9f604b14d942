"""What files of strangers may hold: terminal codes, paths that lead elsewhere, invalid values."""

import json
import os
import re
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest

from loadcheck import cli, loading
from loadcheck.errors import BadInput
from loadcheck.loading import judge_folder
from loadcheck.plan import make_plan, plan_from_json, plan_to_json
from loadcheck.runs.folder import RunFolder
from loadcheck.runs.json_file import MAX_RECORD_BYTES, write_json
from loadcheck.runs.new_folder import create_run_folder
from loadcheck.specs.files import MAX_FILE_BYTES
from loadcheck.specs.profile import load_profile
from tests.conftest import RUNS

H100 = RUNS / "h100" / "reference-train3"
RESET, BELL, C1, RIGHT_TO_LEFT = "\x1b[2J", "\x07", "\x9b31m", "\u202e"
LINK = "\x1b]8;;http://evil.example\x1b\\click\x1b]8;;\x1b\\"
TITLE, DEVICE = "\x1b]0;title\x9c", "\x1bP+q544e\x1b\\"
MARKUP = "[red]red[/red] [link=http://evil.example]here[/link]"
HOSTILE = RESET + LINK + TITLE + DEVICE + C1 + RIGHT_TO_LEFT + BELL + MARKUP

# Beyond what colours need: any other escape, C1 controls, and characters that reverse the text direction.
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
HARMFUL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder that passes."""
    return Path(shutil.copytree(H100, tmp_path / "run"))


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Output as to a terminal, with colours."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "200")


def _shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = cli.run(list(arguments))
    captured = capsys.readouterr()
    return code, captured.out + captured.err


def _assert_harmless(text: str) -> None:
    plain = COLOUR.sub("", text)
    assert HARMFUL.search(plain) is None, repr(plain[max(0, HARMFUL.search(plain).start() - 40) :][:100])


# ---------------------------------------------------------------------------------------------------------------- terminal


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize(
    "arguments", [["parse"], ["check"], ["parse", "--json"], ["check", "--json"], ["--debug", "check"]]
)
def test_nothing_in_a_log_reaches_the_terminal(
    arguments: list[str], t4_log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Terminal codes, links, reversed text and markup in an error, a model's name or a card's are shown as dots or literally."""
    log = tmp_path / "log"
    text = t4_log.read_text().replace("GPU: Tesla T4.", f"GPU: Tesla {HOSTILE}T4.")
    log.write_text(f"{text}\nRuntimeError: {HOSTILE}\nValueError: {HOSTILE} end\n")
    code, shown = _shown(capsys, *arguments, str(log))
    assert code == (0 if "parse" in arguments else 1)
    _assert_harmless(shown)
    assert "[red]red[/red]" in shown


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize("command", ["report", "check"])
def test_nothing_in_a_run_reaches_the_terminal(command: str, run: Path, capsys: pytest.CaptureFixture[str]):
    """Nothing in run.json or in the answer reaches the terminal raw."""
    data = json.loads((run / "run.json").read_text())
    data |= {"outcome": HOSTILE, "reason": HOSTILE, "notes": [HOSTILE]}
    (run / "run.json").write_text(json.dumps(data))
    log = (run / "load.log").read_text()
    (run / "load.log").write_text(
        re.sub(r'("event": "answer".*?"text": )"[^"]*"', r"\1" + json.dumps(HOSTILE).replace("\\", r"\\"), log)
    )
    code, shown = _shown(capsys, command, str(run))
    assert code == 1
    _assert_harmless(shown)


def test_nothing_in_a_run_is_markup_of_the_page(run: Path, tmp_path: Path):
    """The contents of a log and run.json are plain text on the page: no tags, terminal codes, addresses or template values."""
    hostile = HOSTILE + "<script>alert(1)</script>{code}"
    record = json.loads((run / "run.json").read_text()) | {
        "id": hostile, "outcome": "failed", "reason": hostile, "commit": hostile, "notes": [hostile], "started_at": hostile,
        "loadcheck": hostile,
    }  # fmt: skip
    record["profile"]["generation"]["prompt"] = hostile
    (run / "run.json").write_text(json.dumps(record))
    log = (run / "load.log").read_text().replace("GPU: NVIDIA", f"GPU: {hostile} NVIDIA")
    (run / "load.log").write_text(f"{log}RuntimeError: {hostile}\n")
    (run / "memory.jsonl").write_text(
        f'{hostile}\n{{"t_s": "{hostile}", "device_used_bytes": 1, "child_rss_bytes": 1}}\n'
    )
    page = tmp_path / "page.html"
    assert cli.run(["report", str(run), "--html", str(page)]) == 1
    text = page.read_text()
    _assert_harmless(text)
    assert "<script" not in text and "href" not in text
    assert text.count("alert(1)&lt;/script&gt;") >= 10  # wherever the run holds it, and in the log's line
    assert text.count("<style>") == 1 and "default-src 'none'" in text


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize(
    "name", ["run.json", "load.log", "memory.jsonl", "verdict.json", "plan.json.partial", ".reserve", "own.txt"]
)
def test_a_page_never_overwrites_a_file_of_the_run(
    name: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """A page never overwrites a run's file, however its name is spelled."""
    (run / "own.txt").write_text("mine")
    before = _contents(run)
    alias = tmp_path / "alias"
    alias.symlink_to(run, target_is_directory=True)
    for page in (run / name, run / ".." / run.name / name, alias / name):
        assert cli.run(["report", str(run), "--html", str(page)]) == 2
        assert "--html: is a file of the run itself; name another file" in capsys.readouterr().err
    assert _contents(run) == before


def test_a_page_is_not_written_through_a_link(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """A page is not written through a symbolic link, to a file or to nothing, nor through a hard link to a run's file."""
    target, page = tmp_path / "target", tmp_path / "page.html"
    for content in ("mine", None):
        target.unlink(missing_ok=True)
        if content is not None:
            target.write_text(content)
        page.unlink(missing_ok=True)
        page.symlink_to(target)
        assert cli.run(["report", str(run), "--html", str(page)]) == 2
        assert "--html: is a link" in capsys.readouterr().err
        assert page.is_symlink() and (target.read_text() if target.exists() else None) == content
    page.unlink()
    page.hardlink_to(run / "load.log")
    before = _contents(run)
    assert cli.run(["report", str(run), "--html", str(page)]) == 2
    assert "under another name" in capsys.readouterr().err
    assert _contents(run) == before


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_a_page_is_not_written_over_a_folder_or_pipe(
    kind: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """A page is not written over a folder or a pipe. Opening a pipe that nobody reads would block."""
    page = tmp_path / "page.html"
    page.mkdir() if kind == "folder" else os.mkfifo(page)
    assert cli.run(["report", str(run), "--html", str(page)]) == 2
    assert "is a folder or a device" in capsys.readouterr().err


def test_a_page_is_written_whole_or_not_at_all(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The old page stays until the new one is complete. It may be in the run's folder, and no temporary file is left."""
    page = run / "page.html"
    page.write_text("old")
    page.chmod(0o640)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fchmod", full)
        assert cli.run(["report", str(run), "--html", str(page)]) == 2
    assert page.read_text() == "old"
    names = {path.name for path in run.iterdir()}
    assert cli.run(["report", str(run), "--html", str(page)]) == 0
    assert page.read_text().startswith("<!")
    assert {path.name for path in run.iterdir()} == names
    assert page.stat().st_mode & 0o777 == 0o640


def test_a_page_that_cannot_be_written_is_bad_input(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """The error names the file, the reason and the fix, after the report was shown."""
    code, shown = _shown(capsys, "report", str(run), "--html", str(tmp_path / "none" / "page.html"))
    assert code == 2
    assert "page.html: No such file or directory; name a file that can be written" in shown.replace("\n", " ")
    assert "PASS" in shown


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize("debug", [[], ["--debug"]])
def test_nothing_in_a_name_reaches_the_terminal(debug: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """An error shows the names of files, keys and values on one line each, with and without a traceback."""
    profile = tmp_path / f"x{RESET}{RIGHT_TO_LEFT}.toml"
    profile.write_text('"key\\u001b[2J" = 1\nname = "a\\u009b"\nengine = "\\u001b[2J"\n')
    for arguments in (["predict", "--gpu", "T4", "--profile", str(profile)], ["parse", str(tmp_path / HOSTILE.replace("/", ""))],
                      ["predict", "--gpu", HOSTILE], [f"par{RESET}se"]):  # fmt: skip
        code, shown = _shown(capsys, *debug, *arguments)
        assert code == 2
        _assert_harmless(shown)


def test_a_name_that_is_not_utf_8_can_be_written_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """A folder's name that is not UTF-8: its record is written and read, and its error is shown."""
    folder = Path(os.fsdecode(bytes(tmp_path) + b"/run\xff"))
    write_json(RunFolder(folder).record_path, {"id": folder.name})
    assert json.loads((folder / "run.json").read_text())["id"] == folder.name
    code, shown = _shown(capsys, "report", str(folder))
    assert code == 2
    assert "not a valid run record" in shown


# ------------------------------------------------------------------------------------------------------------------- paths


@pytest.mark.parametrize("name", ["run.json", "load.log"])
def test_a_link_in_a_run_folder_is_not_followed(
    name: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """A run folder whose log or record is a link to another file is refused."""
    (tmp_path / "elsewhere").write_bytes((run / name).read_bytes())
    (run / name).unlink()
    (run / name).symlink_to(tmp_path / "elsewhere")
    for command in ("report", "check"):
        code, shown = _shown(capsys, command, str(run))
        assert code == (2 if name == "run.json" else 1)
        assert "is not a regular file" in " ".join(shown.split())


@pytest.mark.parametrize("name", ["run.json", "load.log"])
@pytest.mark.parametrize("kind", ["pipe", "socket", "folder"])
def test_a_log_that_is_no_regular_file_does_not_hang(name: str, kind: str, run: Path, monkeypatch: pytest.MonkeyPatch):
    """A pipe, which would block, a socket and a folder are refused."""
    (run / name).unlink()
    monkeypatch.chdir(run)  # a socket's name must be short
    if kind == "pipe":
        os.mkfifo(name)
    elif kind == "folder":
        Path(name).mkdir()
    else:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(name)
    if name == "run.json":
        with pytest.raises(BadInput, match="is not a regular file"):
            judge_folder(run)
    else:
        assert judge_folder(run).verdict.status == "fail"


@pytest.mark.parametrize(
    "name", ["load.log", "memory.jsonl", "plan.json", "weights.json", "verdict.json", "run.json.partial"]
)
def test_a_folder_with_planted_links_is_refused(name: str, tmp_path: Path):
    """A load never writes through a link that is already in its folder, even a broken one."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / name).symlink_to(tmp_path / "target")
    with pytest.raises(BadInput, match=f"holds {name} already"):
        create_run_folder(folder, "x")
    assert [path.name for path in folder.iterdir()] == [name]
    assert not (tmp_path / "target").exists()


def test_a_link_to_a_folder_may_be_named(tmp_path: Path):
    """--run-dir is the user's own choice: a link to a folder is accepted; a link to nothing or to a file is refused."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert create_run_folder(tmp_path / "link", "x").path == tmp_path / "link"
    (tmp_path / "nowhere").symlink_to(tmp_path / "missing")
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "nowhere", tmp_path / "file"):
        with pytest.raises(BadInput, match="cannot be written"):
            create_run_folder(path, "x")


@pytest.mark.parametrize(
    "name", ["../../../tmp/evil", "/etc/evil", ".", "..", "a\nb", "a\0b", "x" * 101, "", "\u202ea"]
)
def test_a_profiles_name_is_no_path(name: str, tmp_path: Path):
    """A profile's name cannot be a path, as run folders and expected ranges are named after it."""
    file = tmp_path / "p.toml"
    text = (Path(cli.__file__).parents[3] / "env" / "profiles" / "smollm2-135m-cpu.toml").read_text()
    file.write_text(f"name = {json.dumps(name)}\n" + re.sub(r"(?m)^name = .*\n", "", text))
    with pytest.raises(BadInput, match="name of a folder"):
        load_profile(str(file))


def test_runs_in_the_same_second_get_their_own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Without --run-dir, two loads in the same second get different folders."""
    monkeypatch.chdir(tmp_path)
    assert [create_run_folder(None, "id").path.name for _ in range(3)] == ["id", "id-2", "id-3"]


# ------------------------------------------------------------------------------------------------------------------ values


@pytest.mark.parametrize(
    "changed",
    [{"outcome": ["completed"]}, {"notes": 5}, {"reason": None}, {"duration_s": "long"}, {"schema": 2}, {"exit_code": "0"},
     {"profile": []}, {"machine": None}],
)  # fmt: skip
def test_a_record_with_a_wrong_type_is_refused(changed: dict[str, Any], run: Path):
    """A value of the wrong type in run.json is reported as such, before anything else."""
    data = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(data | changed))
    with pytest.raises(BadInput, match="not a valid run record"):
        judge_folder(run)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"schema": ' + "9" * 5000 + "}", " " * (MAX_RECORD_BYTES + 1), "\x00", '"\udc00"']
)
def test_an_unreadable_record_is_refused(text: str, run: Path):
    """Endless nesting, numbers or files as run.json are refused."""
    (run / "run.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(BadInput, match="not a valid run record"):
        judge_folder(run)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a = " + "[" * 100_000, "not valid TOML"),
        ("a = " + "9" * 5000, "not valid TOML"),
        ("#" * (MAX_FILE_BYTES + 1), "is larger than"),
        ("a = '\x00'", "not valid TOML"),
    ],
)
def test_an_unreadable_profile_is_refused(text: str, words: str, tmp_path: Path):
    """Endless nesting, numbers or files as a profile are refused."""
    (tmp_path / "p.toml").write_text(text)
    with pytest.raises(BadInput, match=words):
        load_profile(str(tmp_path / "p.toml"))


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "x" * 5000 + ".toml", "a\0.toml"])
def test_an_impossible_file_name_is_bad_input(name: str):
    """A name that no file can have is bad input, as a profile and as a model, and no crash."""
    with pytest.raises(BadInput):
        load_profile(name)
    with pytest.raises(BadInput):
        make_plan(load_profile("smollm2-135m-cpu", {"model": name}))


def test_a_flag_for_a_table_that_is_no_table(tmp_path: Path):
    """`adapters = 5` in a profile with --lora-r on the command line: the error blames the file."""
    (tmp_path / "p.toml").write_text("adapters = 5")
    with pytest.raises(BadInput, match="adapters"):
        load_profile(str(tmp_path / "p.toml"), {"adapters.r": 8})


@pytest.mark.parametrize(
    "change", [lambda data: [], lambda data: {}, lambda data: data | {"model_name": 1}, lambda data: None]
)
def test_a_damaged_plan_is_bad_input(change: Any):
    """The engine's process reports what is wrong with plan.json in words."""
    with pytest.raises(BadInput, match="plan.json"):
        plan_from_json(change(plan_to_json(make_plan(load_profile("smollm2-135m-cpu")))))


def test_a_run_that_printed_nothing_is_judged(run: Path, capsys: pytest.CaptureFixture[str]):
    """A child killed before its first line: report and check both say so, and exit 1."""
    (run / "load.log").write_text("")
    for command in ("report", "check"):
        code, shown = _shown(capsys, command, str(run))
        assert code == 1
        assert "the file is empty" in " ".join(shown.split())


def test_a_closed_pipe_is_no_pass(monkeypatch: pytest.MonkeyPatch, t4_log: Path):
    """`loadcheck check --json LOG | true` does not exit 0, as nobody has read the verdict."""

    def broken(*_: object, **__: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr("click.echo", broken)
    monkeypatch.setattr("sys.stderr", open(os.devnull, "w"))  # noqa: SIM115, PTH123: it is closed there
    assert cli.run(["check", "--json", str(t4_log)]) == 141


# -------------------------------------------------------------------------------------------------------------------- logs


@pytest.mark.parametrize(
    "noise", [b"\0", bytes(range(256)) * 5_000 + b"\n", b"\xff\xfe\0\n", b"\xff\xfeab\n", b"\xc3\n"]
)
def test_noise_in_a_log_costs_no_figure(noise: bytes, t4_log: Path, tmp_path: Path):
    """Binary data from a library, at the beginning or in the middle, hides no line of the load."""
    from loadcheck.stacks import parse_log

    log = tmp_path / "log"
    whole = parse_log(t4_log).last.figures
    text = t4_log.read_bytes()
    middle = text.index(b"\n", len(text) // 2) + 1
    for at in (0, middle):
        log.write_bytes(text[:at] + noise + text[at:])
        assert parse_log(log).last.figures == whole


def test_a_run_that_ends_well_too_early_fails(run: Path):
    """A process that a library ends with exit code 0 after the adapters, without an answer, fails."""
    log = (run / "load.log").read_text()
    (run / "load.log").write_text(log[: log.index('loadcheck: {"event": "answer"')])
    loaded = judge_folder(run)
    assert {finding.figure for finding in loaded.verdict.failures()} >= {"answer", "trained"}


def test_a_moved_log_is_judged_with_its_run(run: Path, tmp_path: Path):
    """A log moved after a full disk is judged with its run, which was killed after the last line. The log alone would pass."""
    moved = Path(shutil.copy(run / "load.log", tmp_path / "moved.log"))
    record = RunFolder(run).read_record()
    record.outcome, record.reason = "killed", "by SIGKILL"
    _, verdict = loading._judge(RunFolder(run), record, moved)
    assert [finding.figure for finding in verdict.failures()] == ["process"]
