"""What is installed, compared with the lock."""

from email.message import Message
from types import SimpleNamespace

import pytest

from loadcheck import cli
from loadcheck.manifest import locked_versions


def _install(monkeypatch: pytest.MonkeyPatch, **versions: str) -> None:
    found = [
        SimpleNamespace(name=name, version=version, metadata=Message(), files=()) for name, version in versions.items()
    ]
    monkeypatch.setattr("loadcheck.manifest.distributions", lambda: found)


def test_an_environment_without_the_stack_is_one_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """An environment without the stack gives one error that names the environment to ask, and exit 3, instead of a list of packages."""
    _install(monkeypatch, mypy="1.15.0", ruff="0.9.6")
    assert cli.run(["manifest"]) == 3
    out, err = capsys.readouterr()
    assert (out, err.count("Error:"), err.count("\n")) == ("", 1, 1)
    assert "not one of the stack's" in err and "make manifest" in err and "mypy" not in err


def test_packages_not_as_locked_are_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """In an environment with the stack each package that the lock lacks, or has in another version, is an error; exit 1."""
    _install(monkeypatch, torch=locked_versions()["torch"], numpy="9.9", mypy="1.15.0")
    assert cli.run(["manifest"]) == 1
    out, err = capsys.readouterr()
    assert out.splitlines()[-1] == "3 packages, 2 problems"
    assert err.splitlines() == [
        "Error: mypy 1.15.0: the lock has no such package; install from the lock again",
        f"Error: numpy 9.9: the lock has {locked_versions()['numpy']}; install from the lock again",
    ]


def test_a_version_is_not_broken_on_a_narrow_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """At 30 columns a package takes several lines, and its version stays in one piece."""
    monkeypatch.setenv("COLUMNS", "30")
    _install(monkeypatch, torch="2.5.1+cu124.a.long.local.version")
    cli.run(["manifest"])
    assert "  version 2.5.1+cu124.a.long.local.version,\n" in capsys.readouterr().out
