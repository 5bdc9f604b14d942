"""The checkout of a rehearsal: a copy of this one. Its environments have the packages of the installed ones, and import machine.py at startup."""

from __future__ import annotations

import shutil
from pathlib import Path

COPIED = ("Makefile", "env", "examples", "pyproject.toml", "scripts", "src", "tests")
STARTUP = """\
import site; site.addsitedir({site!r})
import sys; sys.path.insert(0, {src!r})
import sys; sys.path.insert(0, {stand_in!r}); import machine; sys.path.remove({stand_in!r})
"""
LAUNCHER = "#!{python}\nimport sys\nfrom loadcheck.cli import main\nsys.exit(main())\n"


def checkout(root: Path, folder: Path, environments: tuple[str, ...]) -> Path:
    """Copy `root` with these environments."""
    folder.mkdir()
    for name in COPIED:
        if (root / name).is_dir():
            shutil.copytree(root / name, folder / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(root / name, folder / name)
    for name in environments:
        _environment(root / ".venv" / name, folder / ".venv" / name, folder)
    return folder


def _environment(installed: Path, copied: Path, folder: Path) -> None:
    """Child processes run the same Python (sys.executable), so they find the same packages."""
    (site,) = installed.glob("lib/python3.*/site-packages")
    (copied / "bin").mkdir(parents=True)
    (copied / "bin" / "python").symlink_to((installed / "bin" / "python").resolve())
    (copied / "pyvenv.cfg").write_text((installed / "pyvenv.cfg").read_text())
    packages = copied / site.relative_to(installed)
    packages.mkdir(parents=True)
    paths = {
        "site": str(site.absolute()),
        "src": str(folder / "src"),
        "stand_in": str(folder / "tests" / "gpu" / "stand_in"),
    }
    (packages / "stand_in.pth").write_text(STARTUP.format(**paths))
    program = copied / "bin" / "loadcheck"
    program.write_text(LAUNCHER.format(python=copied / "bin" / "python"))
    program.chmod(0o755)
