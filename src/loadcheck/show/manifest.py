"""What is installed, for people."""

from __future__ import annotations

from rich.console import Console

from loadcheck.manifest import Manifest
from loadcheck.terminal import Name, print_table, print_words


def show_manifest(out: Console, errors: Console, manifest: Manifest) -> None:
    """Print every package with version and licence and every file that differs; on `errors`, what differs from the lock."""
    rows = ((Name(package.name), package.version, Name(package.licence)) for package in manifest.packages)
    print_table(out, ("package", "version", "licence"), "lll", rows)
    for file in manifest.files:
        print_words(out, f"{file.path}: {file.difference}: {file.why or 'unexplained'}")
    for problem in manifest.problems:
        print_words(errors, f"Error: {problem}; install from the lock again")
    out.print(f"{len(manifest.packages)} packages, {len(manifest.problems)} problems")
