"""A canary for a token: wherever it is set and whoever prints it, it is in no file of a run and on no terminal."""

import os
from pathlib import Path

import pytest

from loadcheck import cli
from loadcheck.runs.secrets import hub_tokens, secrets
from loadcheck.runs.sink import LogSink

CANARY = "hf_CanaryCanaryCanaryCanaryCanary1234"


@pytest.fixture(params=["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "HF_HOME"])
def set_token(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The canary, set in one of the four ways of the hub's client, with white space around it."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    if request.param in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.setenv(request.param, f" {CANARY}\n")
    else:
        (tmp_path / "token").write_text(f"{CANARY}\n")
        monkeypatch.setenv(request.param, str(tmp_path / ("token" if request.param == "HF_TOKEN_PATH" else "")))
    return str(request.param)


def test_every_place_of_a_token_is_known(set_token: str):
    """Variables and files are read as the hub's client reads them."""
    assert secrets(os.environ) == (CANARY,)


def test_of_two_tokens_the_longer_is_blotted_out_whole(tmp_path: Path):
    """Where one token begins another, nothing of the longer one is left."""
    both = {"HF_TOKEN": CANARY, "HUGGING_FACE_HUB_TOKEN": CANARY + "5678", "HF_HOME": str(tmp_path)}
    sink = LogSink(tmp_path / "log", secrets(both))
    sink.write(f"<{CANARY}> <{CANARY}5678>".encode())
    assert sink.close().read_bytes() == b"<[secret]> <[secret]>"


@pytest.mark.parametrize("token", ["", "x", "None", "5.3541"])
def test_a_word_is_no_token(token: str, tmp_path: Path):
    """HF_TOKEN=1 must not blot out every 1 of the log."""
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


@pytest.mark.parametrize("flags", [[], ["--json"], ["--debug"]], ids=str)
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: "-".join(command[:2]))
def test_no_command_shows_it(
    command: tuple[str, ...],
    flags: list[str],
    set_token: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    """Not for people, not as JSON, not with a traceback; and nothing is left behind that holds it."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setattr("loadcheck.device.read_gpu", lambda: None)
    arguments = [*flags, *command] if flags == ["--debug"] else [*command, *flags]
    assert cli.run(arguments) in range(4)
    captured = capsys.readouterr()
    assert captured.out + captured.err != ""
    assert CANARY not in captured.out + captured.err
    assert [path for path in work.rglob("*") if path.is_file() and CANARY.encode() in path.read_bytes()] == []
