"""The command line: one file for each command, each with what it needs from the layers below, what it prints, and its exit code."""

from loadcheck.cli.app import cli, main, run

__all__ = ["cli", "main", "run"]
