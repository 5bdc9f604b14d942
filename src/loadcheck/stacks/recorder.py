"""How an engine reports its measurements: as events in its output."""

from __future__ import annotations

import sys
import time

from msgspec import structs

from loadcheck.logs.event import Event
from loadcheck.logs.event_lines import format_event


class Recorder:
    """Prints events to the engine's own output, where the parent and the parser read them."""

    def __init__(self) -> None:
        self._start_s = time.monotonic()

    def record(self, event: Event) -> None:
        """Print one event with the seconds since the recorder was created."""
        at_s = round(time.monotonic() - self._start_s, 3)
        # A progress bar may have left the cursor in the middle of a line. A single write, because print() writes the newline separately
        # and another thread's text could come between.
        sys.stdout.write(f"\n{format_event(structs.replace(event, at_s=at_s))}\n")
        sys.stdout.flush()
