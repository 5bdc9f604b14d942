"""An engine that can begin before it has a plan, and says what it does."""

import threading
from pathlib import Path


def begin(looked: threading.Event) -> None:
    print("imports", flush=True)
    looked.wait()
    print("touches the device", flush=True)


def weights_ready(directory: Path) -> None:
    print(f"reads {directory}", flush=True)
