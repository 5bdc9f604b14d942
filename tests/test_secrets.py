"""A canary token: wherever it is set and whatever prints it, it is in no file of a run and on no terminal."""

import base64
import json
import os
import stat
import urllib.parse
from io import BytesIO, TextIOWrapper
from itertools import product
from pathlib import Path

import pytest

from loadcheck import cli
from loadcheck.runs.json_file import write_json
from loadcheck.runs.new_folder import create_run_folder
from loadcheck.runs.redact import Redactor
from loadcheck.runs.secrets import hub_tokens, secrets
from loadcheck.runs.sink import LogSink
from tests.conftest import thinned

CANARY = "hf_CanaryCanaryCanaryCanaryCanary1234"


WAYS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "HF_HOME")


@pytest.fixture(params=WAYS)
def set_token(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The canary, set with white space around it in one of the four ways of the hub's client."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    if request.param in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.setenv(request.param, f" {CANARY}\n")
    else:
        (tmp_path / "token").write_text(f"{CANARY}\n")
        monkeypatch.setenv(request.param, str(tmp_path / ("token" if request.param == "HF_TOKEN_PATH" else "")))
    return str(request.param)


def test_a_token_is_found_in_every_place(set_token: str):
    """Variables and files are read as the hub's client reads them."""
    assert secrets(os.environ) == (CANARY,)


def test_of_two_tokens_the_longer_is_redacted_whole(tmp_path: Path):
    """If one token starts with another, nothing of the longer one is left."""
    both = {"HF_TOKEN": CANARY, "HUGGING_FACE_HUB_TOKEN": CANARY + "5678", "HF_HOME": str(tmp_path)}
    sink = LogSink(tmp_path / "log", secrets(both))
    sink.write(f"<{CANARY}> <{CANARY}5678>".encode())
    assert sink.close().read_bytes() == b"<[secret]> <[secret]>"


@pytest.mark.parametrize("token", ["", "x", "None", "5.3541"])
def test_a_word_is_no_token(token: str, tmp_path: Path):
    """HF_TOKEN=1 must not redact every 1 of the log."""
    assert secrets({"HF_TOKEN": token, "HF_HOME": str(tmp_path)}) == ()
    assert list(hub_tokens({"HF_TOKEN": token, "HF_HOME": str(tmp_path)})) == [("HF_TOKEN", token)]


COMMANDS = (
    ("doctor", "--profile", "llama31-8b-instruct-4bit", "--weights", "hub"),
    ("load", "smollm2-135m-cpu"),
    ("load", "llama31-8b-instruct-4bit"),
    ("predict", "--gpu", "T4"),
    ("report", "no-such-run"),
    ("manifest",),
)


@pytest.mark.parametrize(
    ("set_token", "command", "flags"),
    thinned([*product(WAYS, COMMANDS, ([], ["--json"], ["--debug"]))]),
    indirect=["set_token"],
    ids=lambda each: "-".join(each[:2]) if isinstance(each, tuple) else None,
)
def test_no_command_shows_the_token(
    command: tuple[str, ...],
    flags: list[str],
    set_token: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    """No output, JSON or traceback shows the token, and no file left behind holds it."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setattr("loadcheck.device.read_gpu", lambda: None)
    monkeypatch.setattr("loadcheck.doctor.facts.distributions", tuple)  # comparing each installed file takes a while
    arguments = [*flags, *command] if flags == ["--debug"] else [*command, *flags]
    assert cli.run(arguments) in range(4)
    captured = capsys.readouterr()
    assert captured.out + captured.err != ""
    assert CANARY not in captured.out + captured.err
    assert [path for path in work.rglob("*") if path.is_file() and CANARY.encode() in path.read_bytes()] == []


# ---------------------------------------------------------------------------------------------------------------- encodings

ODD = "p/ss+w\u00f6rd&1234567890"
BASIC = {
    name: base64.b64encode(f"{name}:{CANARY}".encode()).decode() for name in ("u", "us", "use", "user@example.com")
}
HIDDEN = {
    **{f"Basic {name}": f"Authorization: Basic {form}" for name, form in BASIC.items()},
    **{f"bare base64 {name}": f"x={form};" for name, form in BASIC.items()},
    "base64 in words": base64.b64encode(f"the token is {CANARY}, keep it".encode()).decode(),
    "in a URL": f"https://user:{CANARY}@example.com/x?t={CANARY}",
    "hex": CANARY.encode().hex(),
    "wrapped": f"a line\n    {CANARY[:9]}\n    {CANARY[9:20]}\r\n\t{CANARY[20:]} end",
    "coloured": "".join(f"\x1b[3{number % 8}m{char}\x1b[0m" for number, char in enumerate(CANARY)),
    "wrapped and coloured": f"\x1b[31m{CANARY[:5]}\x1b[0m\n  \x1b[31m{CANARY[5:]}\x1b[0m",
    "wrapped base64": BASIC["user@example.com"][:30] + "\n" + BASIC["user@example.com"][30:],
}
UNKNOWN = {
    "hub": "hf_" + "AbCdEfGh12" * 3 + "XyZw",
    "openai": "sk-proj-" + "AbCd1234_-" * 4,
    "github": "ghp_" + "AbCd12" * 6,
    "github fine": "github_pat_" + "11AAAA_" * 8,
    "aws": "AKIA" + "ABCD1234EFGH5678",
    "bearer": "Authorization: Bearer eyJhbGciOi.eyJzdWIi.SflKxwRJ",
    "basic": "authorization: basic dXNlcjpwYXNz",
    "bearer alone": "sent Bearer abcdefghijklmnopqrstuvwxyz012345",
    "coloured": "hf_\x1b[1m" + "AbCdEfGh12\x1b[0m" * 3 + "XyZw",
}


def leaks(shown: bytes, secret: str) -> bool:
    """Whether 12 consecutive characters of it, in any of its encodings, are still readable."""
    plain = Redactor().known_tokens(shown)
    for gap in (b"\n", b"\r", b" ", b"\t"):
        plain = plain.replace(gap, b"")
    while b"\x1b[" in plain:
        start = plain.index(b"\x1b[")
        plain = plain[:start] + plain[plain.index(b"m", start) + 1 :]
    forms = [secret.encode(), secret.encode().hex().encode()]
    forms += [base64.b64encode(b"x" * n + secret.encode())[4:-8] for n in range(3)]
    return any(form[n : n + 12] in plain for form in forms for n in range(len(form) - 11))


@pytest.mark.parametrize(("form", "num_bytes"), thinned([*product(HIDDEN, (1, 7, 64, 100_000))]))
def test_a_known_token_is_found_in_any_form(form: str, num_bytes: int, tmp_path: Path):
    """A token is found encoded, wrapped or coloured, and split in any way."""
    sink = LogSink(tmp_path / "log", (CANARY,))
    data = f"before {HIDDEN[form]} after\n".encode()
    assert leaks(data, CANARY)
    for start in range(0, len(data), num_bytes):
        sink.write(data[start : start + num_bytes])
    shown = sink.close().read_bytes()
    assert not leaks(shown, CANARY), shown
    assert shown.startswith(b"before ") and shown.endswith(b" after\n") and b"[secret]" in shown


@pytest.mark.parametrize("num_bytes", [1, 7, 100_000])
@pytest.mark.parametrize("token", UNKNOWN.values(), ids=UNKNOWN)
def test_an_unknown_token_is_recognized_by_its_form(token: str, num_bytes: int, tmp_path: Path):
    """Tokens of the hub, OpenAI, GitHub and AWS, and a header's credential, are recognized by their form."""
    sink = LogSink(tmp_path / "log")
    data = f"before\n<{token}>\nafter\n".encode()
    for start in range(0, len(data), num_bytes):
        sink.write(data[start : start + num_bytes])
    shown = sink.close().read_text()
    assert shown.startswith("before\n<") and shown.endswith("\nafter\n") and "[secret]" in shown
    assert token.split()[-1][-8:] not in shown


@pytest.mark.parametrize(
    "line",
    [
        "INFO 02-14 10:00:00 worker.py:267] the current vLLM instance can use total_gpu_memory (14.74GiB)",
        "task-force desk-aaaaaaaaaaaaaaaaaaaaaaaaaa shelf_half_" + "x" * 30,
        "Basic configuration and Bearer of news, hf_transfer, hf_hub_download, sk-learn",
        "sha256:" + "0123456789abcdef" * 4,
    ],
)
def test_text_that_is_no_token_is_kept(line: str):
    """Text that only starts like a token is not changed."""
    assert Redactor((CANARY,)).text(line) == line


def test_a_password_is_found_in_a_url_and_in_json():
    """A password is also found where a URL or JSON encodes its characters."""
    shown = Redactor((ODD,)).text(f"{urllib.parse.quote(ODD, safe='')} {json.dumps(ODD)} {ODD}")
    assert shown == '[secret] "[secret]" [secret]'


@pytest.mark.parametrize(
    "name", ["WANDB_API_KEY", "GITHUB_TOKEN", "AWS_SECRET_ACCESS_KEY", "DB_PASSWORD", "OPENAI_API_KEY"]
)
def test_other_secrets_of_the_environment_are_redacted(name: str, tmp_path: Path):
    """Other secrets are recognized by their variables' names; a path or a word is none."""
    environ = {
        "HF_HOME": str(tmp_path),
        name: "0123456789abcdefXYZ",
        "A_TOKEN": "/run/secrets/token",
        "B_TOKEN": "none",
    }
    assert secrets(environ) == ("0123456789abcdefXYZ",)


def test_no_file_of_a_run_folder_holds_a_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """run.json, plan.json and verdict.json are written through this function; keys and lists are redacted too."""
    monkeypatch.setenv("HF_TOKEN", CANARY)
    write_json(tmp_path / "x.json", {"prompt": f"say {CANARY}", CANARY: [BASIC["use"], {"a": (CANARY, 1, None)}]})
    text = (tmp_path / "x.json").read_text()
    assert not leaks(text.encode(), CANARY)
    assert json.loads(text)["[secret]"][1] == {"a": ["[secret]", 1, None]}


@pytest.mark.parametrize("flags", [["parse"], ["parse", "--json"], ["check"], ["--debug", "check"]])
def test_no_token_of_a_log_is_shown(
    flags: list[str], t4_log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """A token in somebody else's log is not shown."""
    monkeypatch.setenv("HF_TOKEN", CANARY)
    log = tmp_path / "log"
    log.write_text(f"{t4_log.read_text()}\nRuntimeError: no {CANARY} {BASIC['us']} {UNKNOWN['hub']} here\n")
    cli.run([*flags, str(log)])
    captured = capsys.readouterr()
    shown = captured.out + captured.err
    assert "[secret]" in shown
    assert not leaks(shown.encode(), CANARY)
    assert UNKNOWN["hub"] not in shown


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_no_token_is_shown_in_any_encoding_of_the_terminal(encoding: str, monkeypatch: pytest.MonkeyPatch):
    """On an ASCII terminal, click would write to the underlying stream."""
    out, output = BytesIO(), BytesIO()
    monkeypatch.setattr("sys.stdout", TextIOWrapper(out, encoding=encoding, write_through=True))
    monkeypatch.setattr("sys.stderr", TextIOWrapper(output, encoding=encoding, write_through=True))
    assert cli.run(["parse", UNKNOWN["hub"], "--json"]) == 2
    for shown in (out.getvalue(), output.getvalue()):
        assert b"[secret]" in shown and UNKNOWN["hub"].encode() not in shown


# ------------------------------------------------------------------------------------------------------------------- modes


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o277])
def test_a_run_folder_is_private(umask: int, tmp_path: Path):
    """A run folder is readable by its owner alone, whatever the umask: a log may hold unforeseen secrets."""
    before = os.umask(umask)
    try:
        folder = create_run_folder(tmp_path / "run", "id")
        sink = LogSink(folder.log_path)
        sink.close()
        write_json(folder.plan_path, {})
        write_json(folder.plan_path, {})
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.path.iterdir()} == {0o600}
    assert len(list(folder.path.iterdir())) == 3


def test_an_existing_folder_keeps_its_mode(tmp_path: Path):
    """An existing folder is the user's and keeps its mode; the files in it are private as usual."""
    (tmp_path / "run").mkdir(mode=0o755)
    assert stat.S_IMODE(create_run_folder(tmp_path / "run", "id").path.stat().st_mode) == 0o755


@pytest.mark.parametrize("line", [b"Loading model weights took 5.3541 GB\n", b"at the path\r\n", b"as usual\n"])
def test_a_complete_line_is_written_at_once(line: bytes):
    """A killed process loses what it buffers, so a line that ends like the start of "bearer" is written at once."""
    assert Redactor().num_held(line) == 0
    assert Redactor(["hf_abcdefghijklmnopqrstuvwxyz012345"]).num_held(b"token hf_abc\n") == len(b"hf_abc\n")
    assert Redactor().num_held(b"authorization: bea") > 0
