"""The light core as a wheel, with its data inside and without a checkout."""

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.xdist_group("wheel")


RUN = ROOT / "tests" / "runs" / "h100" / "reference-train3"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built from a copy so that the checkout stays clean."""
    source = tmp_path_factory.mktemp("source")
    for name in ("src", "env", "pyproject.toml", "README.md", "LICENSE"):
        os.symlink(ROOT / name, source / name)
    out = source / "out"
    build = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"
    settings = source / "setup.cfg"
    settings.write_text(f"[egg_info]\negg_base = {source}\n")
    subprocess.run([sys.executable, "-W", "ignore", "-c", build, str(out)], cwd=source, check=True, capture_output=True)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment with only the wheel's loadcheck: -S below leaves out the checkout that .pth files would add."""
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return os.environ | {"PYTHONPATH": os.pathsep.join((str(folder), sysconfig.get_path("purelib")))}


def _run(environment: dict[str, str], folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-S", "-m", "loadcheck", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_the_wheel_holds_its_data(wheel: Path):
    """Cards, models, profiles, troubles, locks and py.typed are inside; tests and scripts are not."""
    names = zipfile.ZipFile(wheel).namelist()
    for fact in (
        "gpus.toml",
        "troubles.toml",
        "versions.toml",
        "requirements.lock",
        "models/llama-3.1-8b-instruct.toml",
    ):
        assert f"loadcheck/env/{fact}" in names
    assert "loadcheck/py.typed" in names
    assert not [name for name in names if name.startswith(("tests", "scripts"))]
    modules = {str(path.relative_to(ROOT / "src")) for path in (ROOT / "src").rglob("*.py")}
    assert modules <= set(names)


def test_the_wheel_predicts_and_judges_from_any_folder(installed: dict[str, str], tmp_path: Path, t4_log: Path):
    """predict, fit, list, parse, check, report and compare work as in a checkout, and write their pages."""
    (tmp_path / "load.log").write_bytes(t4_log.read_bytes())
    where = _run(installed, tmp_path, "--version")
    assert where.returncode == 0, where.stderr
    for arguments in (
        ("predict", "--gpu", "T4", "--ram-available-bytes", "12GiB"),
        ("fit", "--gpu", "T4", "--ram-available-bytes", "12GiB"),
        ("list",),
        ("parse", "load.log"),
        ("check", "load.log"),
        ("report", str(RUN), "--html", "page.html"),
        ("compare", str(RUN), str(RUN), "--html", "page.html", "--junit", "junit.xml"),
    ):
        done = _run(installed, tmp_path, *arguments)
        assert done.returncode == 0, (arguments, done.stdout, done.stderr)
