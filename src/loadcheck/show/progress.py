"""The progress of a load: its stage, how far that is, the seconds since the start, and memory against its peak."""

from __future__ import annotations

import re
import threading
import time
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.status import Status

from loadcheck.logs.event import Event
from loadcheck.logs.event_lines import PREFIX, find_event
from loadcheck.logs.events import (
    Answered,
    Attached,
    Device,
    Imported,
    Loaded,
    Started,
    Stepped,
    WeightsLoaded,
    WeightsReady,
)
from loadcheck.logs.formats import Stage
from loadcheck.logs.text import clean_line
from loadcheck.show.gauge import Gauge
from loadcheck.stacks import DIALECT

# What the load does after a stage's line.
_AFTER = {
    Stage.BANNER: "planning",
    Stage.PLAN: "starting the engine",
    Stage.ENGINE: "loading the weights",
    Stage.LOADING: "loading the weights",
    Stage.WEIGHTS: "profiling memory",
    Stage.PROFILED: "allocating the KV cache",
    Stage.BLOCKS: "capturing CUDA graphs",
    Stage.READY: "attaching adapters",
    Stage.ADAPTERS: "answering",
}
_AFTER_EVENT: dict[type[Event] | type[None], str] = {
    WeightsReady: "importing the libraries",
    Started: "loading the weights",
    Imported: "checking the device",
    Device: "loading the model",
    WeightsLoaded: "attaching adapters",
    Loaded: "attaching adapters",
    Attached: "answering",
    Answered: "finishing",
    Stepped: "training",
}


if TYPE_CHECKING:
    from typing_extensions import Self

PREPARING = "preparing the weights"
REFRESH_S = 0.5
"""Seconds between updates on a terminal."""
_COUNTED = re.compile(r"\|\s*(\d{1,6})/(\d{1,6}) \[| weights: ([\d.]{1,9} \w{1,3}) of ([\d.]{1,9} \w{1,3})")
"""The counter of a tqdm bar (tqdm/std.py at 4.67: bar_format), as for CUDA graphs and shards, or the bytes of weights that were fetched or
made (weights/progress.py, weights/safetensors_file.py)."""
_BAR_CHARS = 4096
SILENCE_S = 2.5
"""Longest silence without a terminal, in seconds; otherwise a working CI job looks like one that hangs."""

_ANCHORS = (PREFIX, *{format.anchor for format in DIALECT.formats if format.opens})


class Progress:
    """Follows the child's output. On a terminal, one line that changes; elsewhere, and with TERM=dumb, one line per stage, for CI logs.

    Args:
        gauge: memory against its predicted peak, shown beside the stage; None to show none.
    """

    def __init__(self, out: Console, gauge: Gauge | None = None) -> None:
        self._out = out
        self._gauge = gauge
        self._stage_at_s = 0.0
        self._counted = ""
        self._start_s = time.monotonic()
        self._rest = ""
        self._stage = ""
        self._ended = threading.Event()
        self._dots = 0
        self._lock = threading.Lock()
        spinner = "line" if out.options.ascii_only else "dots"
        overwrites = (
            out.is_terminal and not out.is_dumb_terminal
        )  # rich shows nothing that changes on a dumb one, such as Emacs' shell
        self._status: Status | None = Status(PREPARING, console=out, spinner=spinner) if overwrites else None

    def __enter__(self) -> Self:
        if self._status:
            self._status.start()
        self._show(PREPARING)
        watch = self._follow if self._status else self._break_silence
        threading.Thread(target=watch, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._status:
            self._status.stop()
        with self._lock:
            self._end_dots()

    def _break_silence(self) -> None:
        """Print a dot every few seconds of a stage, all on one line."""
        while not self._ended.wait(SILENCE_S):
            with self._lock:
                if not self._ended.is_set():
                    self._dots += 1
                    self._print(".", end="")

    def _follow(self) -> None:
        """Update memory and counter twice a second."""
        while not self._ended.wait(REFRESH_S):
            self._update()

    def _update(self) -> None:
        """Rewrite the line of the terminal: stage, n of m, memory, seconds."""
        parts = filter(None, (self._stage + self._counted, self._memory_used()))
        try:
            if self._status:
                self._status.update(f"{escape(', '.join(parts))} [dim](from {self._stage_at_s:.0f} s)[/]")
        except OSError:
            self._out.quiet = True

    def _memory_used(self) -> str:
        """Memory of the load; empty while another process makes the weights."""
        return "" if self._gauge is None or self._stage == PREPARING else self._gauge.show()

    def _end_dots(self) -> None:
        if self._dots:
            self._print("")
        self._dots = 0

    def _print(self, text: str, end: str = "\n") -> None:
        try:
            self._out.print(text, markup=False, end=end)
            self._out.file.flush()
        except OSError:  # the reader is gone; the load goes on, and its folder has everything
            self._out.quiet = True

    def feed(self, data: bytes) -> None:
        """Read a piece of the child's output."""
        text = self._rest + data.decode(errors="replace")
        end = text.rfind("\n") + 1
        self._rest = text[end:][-65536:]
        if self._status and (bars := _COUNTED.findall(text[-_BAR_CHARS:])):
            self._counted = " {} of {}".format(*filter(None, bars[-1]))
        if not any(anchor in text for anchor in _ANCHORS):
            return  # a flood of other lines must not hold up the load
        for line in text[:end].split("\n"):
            doing = self.doing(clean_line(line))
            if doing is not None:
                self._show(doing)

    @property
    def on_terminal(self) -> bool:
        """Whether the output goes to a terminal, where it is overwritten."""
        return self._status is not None

    def doing(self, line: str) -> str | None:
        """What happens after this line; None if the line does not tell."""
        return _doing(line)

    def _show(self, doing: str) -> None:
        if doing == self._stage:
            return
        weights_made, self._stage, self._counted = self._stage == PREPARING, doing, ""
        self._stage_at_s = time.monotonic() - self._start_s
        if self._status:
            self._update()
            return
        memory = "" if weights_made else self._memory_used()  # it would still be that of the process that made them
        with self._lock:
            self._end_dots()
            self._print(f"{self._stage_at_s:6.1f} s  {', '.join(filter(None, (doing, memory)))}")


def _doing(line: str) -> str | None:
    """What the load does after this line; None if the line does not tell."""
    if PREFIX in line:
        return _AFTER_EVENT.get(type(find_event(line)))
    for format in DIALECT.formats:
        if format.opens and format.anchor in line and format.pattern.search(line):
            return _AFTER.get(format.stage)
    return None
