"""A release: one version everywhere, a clean tree, passing tests, a working wheel, and only then the tag."""

import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from loadcheck.specs.files import read_toml
from tests.conftest import ROOT

MAKEFILE = "lint test:\n\t@echo $@ >>made\n\t@test ! -e broken\n"


@pytest.fixture
def module() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "scripts" / "release.py"))


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A releasable repository with one commit. Its tests leave a mark, and fail if there is a file `broken`."""
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "a")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "a@example.com")
    for name in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "MAKEOVERRIDES"):
        monkeypatch.delenv(name, raising=False)
    for name, text in {
        "pyproject.toml": '[project]\nname = "loadcheck"\nversion = "1.2.0"\n',
        "src/loadcheck/__init__.py": '__version__ = "1.2.0"\n',
        "CHANGELOG.md": "# Changelog\n\n## 1.2.0 (2026-11-29)\n\n- Something.\n\n## 1.1.0 (2026-01-01)\n",
        "Makefile": MAKEFILE,
        ".gitignore": "made\nbroken\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message", "one"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    return tmp_path


def change(file: Path, old: str, new: str) -> None:
    file.write_text(file.read_text().replace(old, new))


def tags(repository: Path) -> str:
    return subprocess.check_output(["git", "tag"], cwd=repository, text=True)


def release(module: dict[str, Any], repository: Path, tagging: bool) -> list[str]:
    """The steps done, with stand-ins for building and trying the wheel."""
    done: list[str] = []
    names = module["release"].__globals__
    names["build"] = lambda root, out: done.append("build")
    names["try_wheel"] = lambda root, wheel: done.append("try")
    module["release"](repository, tagging=tagging)
    return [*(repository / "made").read_text().split(), *done]


@pytest.mark.parametrize(("tagging", "found"), [(True, "v1.2.0\n"), (False, "")])
def test_the_tag_comes_last(tagging: bool, found: str, module: dict[str, Any], repository: Path):
    """The tag comes after lint, tests, build and trial; RELEASE=check does all but the tag."""
    assert release(module, repository, tagging) == ["lint", "test", "build", "try"]
    assert tags(repository) == found


def test_a_version_is_tagged_once(module: dict[str, Any], repository: Path):
    """A second release of a version names the three places where the version is raised."""
    release(module, repository, tagging=True)
    with pytest.raises(
        module["NotReleasableError"], match=r"v1\.2\.0 is tagged already; raise the version, here, in __init__"
    ):
        release(module, repository, tagging=False)


@pytest.mark.parametrize("file", ["src/loadcheck/__init__.py", "CHANGELOG.md"])
def test_versions_must_agree(file: str, module: dict[str, Any], repository: Path):
    """A file with another version is named, also by a check, and nothing is run."""
    change(repository / file, "1.2.0", "1.3.0")
    with pytest.raises(
        module["NotReleasableError"], match=rf"{file}: states version 1\.3\.0, and pyproject\.toml 1\.2\.0"
    ):
        release(module, repository, tagging=False)
    assert not (repository / "made").exists()


def test_an_unready_release_can_be_checked_but_not_tagged(module: dict[str, Any], repository: Path):
    """A changed working tree and an entry without a date both stop the tag, and are named together."""
    change(repository / "CHANGELOG.md", "(2026-11-29)", "(unreleased)")
    assert release(module, repository, tagging=False)[-1] == "try"
    with pytest.raises(module["NotReleasableError"]) as error:
        release(module, repository, tagging=True)
    assert [line.partition(": ")[0] for line in str(error.value).splitlines()] == ["git", "CHANGELOG.md"]
    assert tags(repository) == ""


def test_failing_tests_stop_a_release(module: dict[str, Any], repository: Path):
    """After failing tests nothing is built or tagged."""
    (repository / "broken").touch()
    with pytest.raises(module["NotReleasableError"], match="make lint test: exit code 2; lint or tests fail"):
        release(module, repository, tagging=True)
    assert tags(repository) == ""


def test_an_unknown_mode_is_bad_usage():
    """An unknown mode exits 2 and does nothing."""
    command = [sys.executable, str(ROOT / "scripts" / "release.py"), "tga"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (
        2,
        "Error: RELEASE: 'tga' is not one of tag, check; leave it out to tag\n",
    )


def test_this_checkout_has_one_version(module: dict[str, Any]):
    """pyproject.toml, __init__.py and CHANGELOG.md's first entry have the same version at every commit."""
    assert len(set(module["versions"](ROOT).values())) == 1


def test_the_wheel_names_every_package():
    """pyproject.toml lists every package; an unlisted one would be missing from the wheel."""
    source = ROOT / "src" / "loadcheck"
    folders = {path.parent.relative_to(source.parent) for path in source.rglob("__init__.py")}
    named = read_toml(ROOT / "pyproject.toml")["tool"]["setuptools"]["packages"]
    assert {".".join(folder.parts) for folder in folders} | {"loadcheck.env"} == set(named)
