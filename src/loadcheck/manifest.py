"""Lists what is installed in this environment, compared with the lock and, file by file, with the wheels.

A file may differ from its wheel in three ways that env/image.toml declares: patched, stripped or left out. Any other difference is a
finding: an edited package, a damaged disk, an image that was tampered with.
"""

from __future__ import annotations

import re
import sys
from base64 import urlsafe_b64encode
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatch
from functools import cache
from importlib.metadata import Distribution, PackagePath, distributions
from pathlib import Path
from typing import Any, Protocol

from packaging.utils import canonicalize_name

from loadcheck.disk import hash_of
from loadcheck.errors import Problem, UnsupportedMachine
from loadcheck.machine import ChangedFile
from loadcheck.machine.facts import Difference
from loadcheck.specs.files import env_dir, read_toml

OURS = "loadcheck"
MARK = "torch"
"""A package that every environment of the stack has, and other environments lack."""
LOCKS = ("requirements.lock", "smollm2.lock")


@dataclass(frozen=True, slots=True)
class Package:
    """One installed distribution. `locked` is None if the lock does not have it."""

    name: str
    version: str
    locked: str | None
    licence: str

    @property
    def is_as_locked(self) -> bool:
        return self.locked == self.version or self.name == OURS


@dataclass(frozen=True, slots=True)
class Manifest:
    """Every installed package, and the files that differ from their wheels (empty if they were not read)."""

    packages: tuple[Package, ...]
    files: tuple[ChangedFile, ...] = field(default=())

    @property
    def problems(self) -> list[str]:
        odd = [package for package in self.packages if not package.is_as_locked]
        return [
            *(
                f"{package.name} {package.version}: the lock has {package.locked or 'no such package'}"
                for package in odd
            ),
            *(
                f"{file.path}: {file.difference}, and env/image.toml does not say why"
                for file in self.files
                if not file.why
            ),
        ]

    def to_json(self) -> dict[str, Any]:
        return {
            "packages": [asdict(package) for package in self.packages],
            "files": [asdict(file) for file in self.files],
            "problems": self.problems,
        }


def read_manifest(check_files: bool) -> Manifest:
    """Read every installed distribution; with `check_files`, also hash each of its files (half a minute in the image).

    UnsupportedMachine in an environment that is not one of the stack's, as the lock does not apply to it.
    """
    locked = locked_versions()
    found = sorted(distributions(), key=lambda distribution: canonicalize_name(distribution.name))
    if MARK not in {canonicalize_name(one.name) for one in found}:
        raise UnsupportedMachine(
            Problem(
                sys.prefix,
                f"this environment is not one of the stack's, which all have {MARK}",
                "run it in one of those: make manifest, or .venv/gpu/bin/loadcheck manifest (.venv/cpu without a GPU)",
            )
        )
    packages = tuple(
        Package(
            canonicalize_name(one.name), one.version, locked.get(canonicalize_name(one.name)), licence_of(one.metadata)
        )
        for one in found
    )
    return Manifest(packages, tuple(changed_files(found)) if check_files else ())


def locked_versions() -> dict[str, str]:
    """The version of each package in the locks from which the image is built."""
    text = "\n".join((env_dir() / lock).read_text(encoding="utf-8") for lock in LOCKS)
    return {
        canonicalize_name(name): version for name, version in re.findall(r"^([\w.-]+)==([^\s;\\]+)", text, re.MULTILINE)
    }


class Metadata(Protocol):
    """A package's METADATA, as importlib.metadata or the email package reads it."""

    def get_all(self, name: str, /) -> list[Any] | None: ...


def licence_of(metadata: Metadata) -> str:
    """The licence in a package's metadata, in its shortest form; "not stated" if there is none."""
    expression = (metadata.get_all("License-Expression") or [""])[0]
    lines = metadata.get_all("Classifier") or ()
    classifiers = ", ".join(line.rsplit(" :: ", 1)[-1] for line in lines if line.startswith("License ::"))
    stated = (metadata.get_all("License") or [""])[0].strip().split("\n")[0][:80]
    return str(expression or classifiers or stated or "not stated")


def changed_files(distributions: list[Distribution]) -> list[ChangedFile]:
    """The files in RECORD that are missing or have another hash."""
    changed = []
    for distribution in distributions:
        for path in distribution.files or ():
            difference = _difference(path)
            if difference is not None:
                changed.append(ChangedFile(str(path), difference, explanation(str(path))))
    return changed


def is_compared(path: PackagePath) -> bool:
    """Whether a file must be as in its wheel. The installer writes the interpreter's path into scripts, and compiles bytecode."""
    return path.hash is not None and path.suffix != ".pyc" and not (path.parts[0] == ".." and "bin" in path.parts[:-1])


def _difference(path: PackagePath) -> Difference | None:
    if path.hash is None or not is_compared(path):
        return None
    file = Path(str(path.locate()))
    if not file.exists():
        return "missing"
    return None if record_hash(file) == path.hash.value else "changed"


def record_hash(path: Path) -> str:
    """The hash as in RECORD: URL-safe base 64, without padding."""
    return urlsafe_b64encode(hash_of(path).digest()).rstrip(b"=").decode()


def explanation(path: str) -> str | None:
    """Why env/image.toml patches, strips or leaves out this file; None if it does not."""
    for pattern, why in _explanations():
        if fnmatch(path, pattern) or fnmatch(path, pattern + "/*"):
            return why
    return None


@cache
def _explanations() -> tuple[tuple[str, str], ...]:
    facts = read_toml(env_dir() / "image.toml")
    return (
        *((entry["path"], "patched at build") for entry in facts["patch"]),
        *((entry["path"], f"stripped: {entry['reason']}") for entry in facts["strip"]),
        *((pattern, f"left out: {entry['reason']}") for entry in facts["prune"] for pattern in entry["paths"]),
    )
