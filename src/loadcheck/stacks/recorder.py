"""What an engine is: the stages of a load, and how each says what it measured."""

from __future__ import annotations

import sys
import time
from typing import Any

from loadcheck.logs.events import format_event


class Recorder:
    """Prints events into the engine's own output, where the parent and the parser read them.

    Figures are keyword arguments named as in `Figures` (bytes, counts, texts); anything else is kept as it is.
    """

    def __init__(self) -> None:
        self._start_s = time.monotonic()

    def event(self, event: str, **fields: Any) -> None:
        """Print one event with the seconds since the process began its work."""
        at_s = round(time.monotonic() - self._start_s, 3)
        # A progress bar may have left the cursor in the middle of a line.
        print("\n" + format_event(event, {"at_s": at_s, **fields}), file=sys.stdout, flush=True)
