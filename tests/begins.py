"""An engine that can begin before it has a plan, and says what it does."""

import sys
import threading
from pathlib import Path


def say(line: str) -> None:
    """One write for a line and its end: two threads say something here, and print() writes twice."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def import_ahead(looked: threading.Event) -> None:
    say("imports")
    looked.wait()
    say("touches the device")


def weights_ready(directory: Path) -> None:
    say(f"reads {directory}")
