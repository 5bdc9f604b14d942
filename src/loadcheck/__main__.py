"""`python -m loadcheck` is `loadcheck`."""

from loadcheck.cli import main

main()
