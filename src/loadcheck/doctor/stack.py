"""Checks of the installed packages: versions against the pins, files against their wheels."""

from __future__ import annotations

from collections.abc import Iterator

from loadcheck.errors import shortlist
from loadcheck.machine import Finding, Level, Machine, ok, problem
from loadcheck.plan import LoadPlan
from loadcheck.specs.versions import load_versions
from loadcheck.stacks import stack_of

INSTALL = "install from the lock again: make clean load"
NAMED_FILES = 5

# Packages whose drift is a trouble of its own.
_TROUBLE = {
    "xformers": "xformers-of-another-torch",
    "protobuf": "protobuf",
    "numpy": "numpy",
    "setuptools": "setuptools",
}


def check_versions(machine: Machine, plan: LoadPlan) -> Iterator[Finding]:
    """The versions of the packages that the profile's engine imports, against env/versions.toml."""
    needed = stack_of(plan.profile).packages(plan.profile)
    if "torch" not in machine.installed:
        yield ok(
            "versions",
            "this environment has no stack; once `make load` has installed one, `make doctor` checks its versions and files",
        )
        return
    drift = [name for name in needed if not _as_pinned(name, machine.installed.get(name))]
    for name in drift:
        pin, found = load_versions().pins[name], machine.installed.get(name)
        what = f"{name} {pin.version} is pinned, and {found or 'none'} is installed"
        yield problem("versions", what, _TROUBLE.get(name, "moved-dependency"), pin.source, INSTALL)
    if not drift:
        yield ok(
            "versions", f"{len(needed)} of the stack's main packages are as pinned; `loadcheck manifest` checks all"
        )


def _as_pinned(name: str, version: str | None) -> bool:
    pin = load_versions().pins[name]
    return version is not None and version.partition("+")[0] in (pin.version, *pin.also)


def check_files(machine: Machine, _: LoadPlan) -> Iterator[Finding]:
    """Every installed file against its wheel's RECORD; known edits are listed, too."""
    if "torch" not in machine.installed:
        return
    odd = [f"{file.path} ({file.difference})" for file in machine.changed_files if file.why is None]
    if odd:
        yield problem("files", f"not as in their wheels: {shortlist(odd, NAMED_FILES)}", "moved-dependency",
                      "an edited package is another package under the same version", INSTALL)  # fmt: skip
    if not odd:
        explained = [file for file in machine.changed_files if file.why is not None]
        named = ", ".join(f"{file.path} ({file.why})" for file in explained[:NAMED_FILES])
        rest = f"; {len(explained)} differ as expected: {named}" if explained else ""
        yield ok("files", "every file is as in its wheel" + rest)


def check_python_path(machine: Machine, _: LoadPlan) -> Iterator[Finding]:
    """Whether PYTHONPATH, which precedes all installed packages, shadows a pinned package."""
    if machine.shadowed:
        what = f"PYTHONPATH has another copy of what is pinned: {shortlist(machine.shadowed, NAMED_FILES)}"
        yield Finding(check="python-path", level=Level.WARNING, what=what, remedy="unset PYTHONPATH",
                      why="loadcheck's loads ignore it, but a script of yours would import that copy")  # fmt: skip


CHECKS = (check_versions, check_files, check_python_path)
