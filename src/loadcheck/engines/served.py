"""A server's process: python -m loadcheck.engines.served PARENT_PID MODULE ARGUMENT… runs the module, and ends when its parent does."""

from __future__ import annotations

import runpy
import sys

from loadcheck.engines.child import die_with_parent


def main(arguments: list[str]) -> None:
    """Run the module as __main__, with the rest as its arguments."""
    die_with_parent(int(arguments[0]))
    sys.argv = arguments[1:]
    runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
