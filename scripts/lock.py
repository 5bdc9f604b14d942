"""Regenerate env/*.lock from env/*.in and print what changed (`make lock`).

Every lock is resolved as of one day, for Python 3.10-3.12 on any platform, with hashes and without an index address, which comes from the
user's own configuration.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ENV = Path(__file__).resolve().parents[1] / "env"
EXCLUDE_NEWER = "2025-02-14"  # the day after the reference run
# Packages that may be newer, each with its last day and the reason. Those for a vulnerability are pure Python, run in no load, and move no figure
# (see LOG.md).
EXCEPTIONS = {
    "bitsandbytes": "2025-07-15",  # the first release whose 4-bit kernels run on a CPU; loads the same bytes on a GPU
    "filelock": "2026-01-11",  # CVE-2025-68146, CVE-2026-22701: replacing a lock's file by a link empties another file
    "h11": "2025-04-25",  # CVE-2025-43859: request smuggling through a proxy that parses chunks differently
    "httpcore": "2025-04-25",  # the first release that accepts that h11
    "jinja2": "2025-03-06",  # CVE-2025-27516: a template escapes the sandbox in which chat templates are rendered
    "requests": "2026-03-26",  # CVE-2024-47081, CVE-2026-25645: a crafted address gets another host's password from .netrc
    "urllib3": "2026-05-12",  # CVE-2025-50181, -50182, -66418, -66471, CVE-2026-21441, -44431, -44432: redirects, decompression bombs
}

# Each lock's own arguments. All but the first are constrained by the first, so a package has one version everywhere.
SHARED = ("--constraints", "env/requirements.lock")
LOCKS: dict[str, tuple[str, ...]] = {
    "requirements": (),
    "cpu": SHARED,
    "dev": SHARED,
    "engines": SHARED,
    "fuzz": SHARED,
    "smollm2": ("--no-deps",),
    "tools": ("--python-version", "3.8"),
}


def main() -> int:
    uv = sys.argv[1] if len(sys.argv) > 1 else "uv"
    for name, arguments in LOCKS.items():
        lock = ENV / f"{name}.lock"
        before = versions(lock)
        compile_lock(uv, name, arguments)
        print_moves(name, before, versions(lock))
    return 0


def compile_lock(uv: str, name: str, arguments: tuple[str, ...]) -> None:
    """Run `uv pip compile` for one lock; uv keeps the present versions that still satisfy the .in file."""
    command = [
        uv,
        "pip",
        "compile",
        "--quiet",
        "--universal",
        "--generate-hashes",
        "--no-emit-index-url",
        "--no-header",
    ]
    if name != "tools":
        command += ["--python-version", "3.10", "--exclude-newer", EXCLUDE_NEWER]
        for package, day in EXCEPTIONS.items():
            command += ["--exclude-newer-package", f"{package}={day}"]
    command += [*arguments, f"env/{name}.in", "--output-file", f"env/{name}.lock"]
    subprocess.run(command, check=True, cwd=ENV.parent, env={**os.environ, "UV_PYTHON_DOWNLOADS": "never"})


def versions(lock: Path) -> dict[str, str]:
    """The pinned version of each package in a lock file; empty if there is no lock yet."""
    text = lock.read_text() if lock.exists() else ""
    return dict(re.findall(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", text, flags=re.MULTILINE))


def print_moves(name: str, before: dict[str, str], after: dict[str, str]) -> None:
    moved = [
        f"  {package}: {before.get(package, 'absent')} -> {after.get(package, 'gone')}"
        for package in sorted(before.keys() | after.keys())
        if before.get(package) != after.get(package)
    ]
    print(f"env/{name}.lock: {len(after)} packages, {len(moved)} moved")
    for line in moved:
        print(line)


if __name__ == "__main__":
    raise SystemExit(main())
