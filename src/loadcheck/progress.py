"""What a person sees while the load runs: the stage it has reached and the seconds it took."""

from __future__ import annotations

import time

from rich.console import Console
from rich.markup import escape
from rich.status import Status

from loadcheck.logs.events import PREFIX, parse_event
from loadcheck.logs.formats import FORMATS, Stage
from loadcheck.logs.text import clean_line

# What the load is doing once a stage's line was seen.
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
_AFTER_EVENT = {
    "weights_ready": "importing the libraries",
    "started": "loading the weights",
    "imported": "looking at the device",
    "device": "loading the model",
    "weights": "attaching adapters",
    "loaded": "attaching adapters",
    "adapters": "answering",
    "answer": "finishing",
    "step": "training",
}


_ANCHORS = (PREFIX, *{format.anchor for format in FORMATS if format.opens})


class Progress:
    """Follows the child's output. On a terminal a line that changes; elsewhere one line a stage, so that a CI log has them."""

    def __init__(self, out: Console) -> None:
        self._out = out
        self._start_s = time.monotonic()
        self._rest = ""
        self._stage = ""
        spinner = "line" if out.options.ascii_only else "dots"
        self._status: Status | None = (
            Status("preparing the weights", console=out, spinner=spinner) if out.is_terminal else None
        )

    def __enter__(self) -> Progress:
        if self._status:
            self._status.start()
        self._show("preparing the weights")
        return self

    def __exit__(self, *_: object) -> None:
        if self._status:
            self._status.stop()

    def feed(self, data: bytes) -> None:
        """Take a piece of the child's output."""
        text = self._rest + data.decode(errors="replace")
        end = text.rfind("\n") + 1
        self._rest = text[end:][-65536:]
        if not any(anchor in text for anchor in _ANCHORS):
            return  # a flood of other lines must not hold up the load
        for line in text[:end].split("\n"):
            doing = _doing(clean_line(line))
            if doing is not None:
                self._show(doing)

    def _show(self, doing: str) -> None:
        if doing == self._stage:
            return
        self._stage = doing
        at_s = time.monotonic() - self._start_s
        try:
            if self._status:
                self._status.update(f"{escape(doing)} [dim](from {at_s:.0f} s)[/]")
            else:
                self._out.print(f"{at_s:6.1f} s  {doing}", markup=False)
        except OSError:  # nobody reads any more; the load goes on, and its folder tells
            self._out.quiet = True


def _doing(line: str) -> str | None:
    """What the load does after this line; None where the line says nothing of it."""
    if PREFIX in line:
        event = parse_event(line.partition(PREFIX)[2])
        return _AFTER_EVENT.get(event["event"]) if event else None
    for format in FORMATS:
        if format.opens and format.anchor in line and format.pattern.search(line):
            return _AFTER.get(format.stage)
    return None
