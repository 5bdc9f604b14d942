"""An engine that can import before it has a plan, and prints each step."""

import sys
import threading
from pathlib import Path

from loadcheck.plan import LoadPlan


def say(line: str) -> None:
    """One write per line: two threads print here, and print() writes the line's end separately."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def import_ahead(device_free: threading.Event) -> None:
    say("imports")
    device_free.wait()
    say("touches the device")


def weights_ready(plan: LoadPlan, directory: Path) -> None:
    say(f"reads {directory}")
