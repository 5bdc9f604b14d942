"""A real installation leaves the machine's own Python unchanged, whatever the variables are; our own wheels stand in for the locked ones."""

import base64
import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Builds the checkout's editable wheel with the standard library alone.
BACKEND = """
import pathlib, shutil
def build_editable(folder, config_settings=None, metadata_directory=None):
    (wheel,) = pathlib.Path("editable").glob("*.whl")
    return pathlib.Path(shutil.copy(wheel, folder)).name
build_wheel = build_editable
"""
PYPROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "loadcheck"
version = "1.0"
"""
REDIRECTS = [
    {"UV_SYSTEM_PYTHON": "1"},
    {"UV_PYTHON": "{python}"},
    {"UV_PYTHON": "3.12", "UV_SYSTEM_PYTHON": "1", "PIP_USER": "1", "PYTHONUSERBASE": "{user}"},
    {"PIP_USER": "1", "PYTHONUSERBASE": "{user}"},
    {"VIRTUAL_ENV": "{machine}", "UV_PROJECT_ENVIRONMENT": "{machine}", "PIP_TARGET": "{user}", "PYTHONPATH": "{user}"},
]


def wheel(folder: Path, name: str, version: str, **files: str) -> Path:
    """A wheel with these files; two underscores in a name stand for a slash."""
    info = f"{name}-{version}.dist-info"
    contents = {path.replace("__", "/"): text for path, text in files.items()} | {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    digests = {path: hashlib.sha256(text.encode()).digest() for path, text in contents.items()}
    record = [
        f"{path},sha256={base64.urlsafe_b64encode(d).decode().rstrip('=')},{len(contents[path])}"
        for path, d in digests.items()
    ]
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        for path, text in contents.items():
            entry = zipfile.ZipInfo(path)
            entry.external_attr = (0o100755 if "/scripts/" in path else 0o100644) << 16
            archive.writestr(entry, text)
        archive.writestr(f"{info}/RECORD", "\n".join([*record, f"{info}/RECORD,,"]) + "\n")
    return folder / f"{name}-{version}-py3-none-any.whl"


def locked(file: Path) -> str:
    name, version = file.name.split("-")[:2]
    return f"{name}=={version} --hash=sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}\n"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout whose locks name our own wheels; uv's wheel calls the real uv."""
    folder, wheels = tmp_path / "checkout ü", tmp_path / "wheels"
    for name in ("scripts/venv", "scripts/progress", "env/sizes.toml"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    uv = wheel(
        wheels, "uv", "1.0", **{"uv-1.0.data__scripts__uv": f'#!/bin/sh\nexec "{ROOT}/.venv/tools/bin/uv" "$@"\n'}
    )
    (folder / "env/tools.lock").write_text(locked(uv))
    (folder / "env/dev.lock").write_text(locked(wheel(wheels, "toy", "2.0", **{"toy.py": "VERSION = 2"})))
    wheel(folder / "editable", "loadcheck", "1.0", **{"loadcheck.py": ""})
    (folder / "backend.py").write_text(BACKEND)
    (folder / "pyproject.toml").write_text(PYPROJECT)
    return folder


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A temporary Python with an older toy package and an unlocked one: an installation there would change or remove them."""
    home = tmp_path_factory.mktemp("home")
    subprocess.run([sys.executable, "-m", "venv", home / "machine"], check=True)
    for name in ("toy", "other"):
        wheel(home / "old", name, "1.0", **{f"{name}.py": ""})
    pip, links = str(home / "machine/bin/pip"), ("--no-index", "--find-links", str(home / "old"))
    install = [pip, "install", "--quiet", *links, "toy", "other"]
    subprocess.run(install, check=True, env={"PATH": os.defpath, "HOME": str(home)})
    return home / "machine"


def state(machine: Path) -> tuple[str, list[str]]:
    """Its pip freeze, and all files except bytecode."""
    frozen = subprocess.check_output(
        [machine / "bin/python", "-m", "pip", "freeze"], text=True, env={"PATH": os.defpath}
    )
    return frozen, sorted(str(path) for path in machine.rglob("*") if "__pycache__" not in str(path))


@pytest.mark.parametrize("redirects", REDIRECTS, ids=lambda redirects: "+".join(redirects))
def test_the_machines_python_is_untouched(redirects: dict[str, str], checkout: Path, machine: Path, tmp_path: Path):
    """The packages are in .venv/dev; the machine's pip freeze and files are unchanged, and no user folder is made."""
    before = state(machine)
    assert "toy==1.0" in before[0] and "other==1.0" in before[0]
    user, home = tmp_path / "user", tmp_path / "home"
    home.mkdir()
    values = {
        name: value.format(python=machine / "bin/python", machine=machine, user=user)
        for name, value in redirects.items()
    }
    index = {
        "PIP_NO_INDEX": "1",
        "UV_OFFLINE": "1",
        "PIP_FIND_LINKS": str(tmp_path / "wheels"),
        "UV_FIND_LINKS": str(tmp_path / "wheels"),
    }
    environment = {"PATH": f"{machine}/bin:{os.defpath}", "HOME": str(home)} | index | values
    done = subprocess.run(
        [checkout / "scripts/venv", "dev", "env/dev.lock"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert state(machine) == before
    assert not user.exists() and not (home / ".local").exists()
    version = [str(checkout / ".venv/dev/bin/python"), "-c", "import toy; print(toy.VERSION)"]
    assert subprocess.check_output(version, env={"PATH": os.defpath}, text=True) == "2\n"
