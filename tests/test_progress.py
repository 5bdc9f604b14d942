"""What is shown while a load runs."""

import io
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import count

import pytest
from rich.console import Console

from loadcheck.show import progress
from loadcheck.show.gauge import Gauge, gauge
from loadcheck.show.progress import Progress
from loadcheck.units import GIB


def test_a_long_stage_prints_dots_without_a_terminal(monkeypatch: pytest.MonkeyPatch):
    """Without a terminal a long stage prints dots on its own line; the next stage starts a line, and the end leaves none open."""
    monkeypatch.setattr(progress, "SILENCE_S", 0.01)
    output = io.StringIO()
    with Progress(Console(file=output)) as shown:
        for event in ("weights_ready", "started"):
            before = output.getvalue().count(".")
            while output.getvalue().count(".") < before + 2:
                time.sleep(0.005)
            shown.feed(f'loadcheck: {{"event": "{event}", "at_s": 1.0}}\n'.encode())
    lines = output.getvalue().splitlines()
    assert [line.split("s  ")[1] for line in lines if "s  " in line] == [
        "preparing the weights", "importing the libraries", "loading the weights"
    ]  # fmt: skip
    assert all(set(line) == {"."} for line in lines if "s  " not in line)
    assert output.getvalue().endswith("\n")


STAGES = b"INFO executor_base.py:110] # CUDA blocks: 1353, # CPU blocks: 1024\n"
BAR = "Capturing CUDA graph shapes:  {percent}%|####      | {done}/23 [00:10<00:13,  1.03s/it]\r"


def test_a_terminal_shows_progress_and_memory(monkeypatch: pytest.MonkeyPatch):
    """A terminal shows the bar's n of m, reset by each stage, and memory against the peak, which is read even while nothing is printed."""
    monkeypatch.setattr(progress, "REFRESH_S", 0.01)
    monkeypatch.setenv("TERM", "xterm")
    used = count(1)
    output = io.StringIO()
    with Progress(Console(file=output, force_terminal=True), Gauge(lambda: next(used) * GIB, 9 * GIB)) as shown:
        shown.feed(STAGES)
        shown.feed(BAR.format(percent=8, done=2).encode() + BAR.format(percent=43, done=10).encode())
        _wait_until(lambda: "capturing CUDA graphs 10 of 23, " in output.getvalue())
        before = output.getvalue()
        _wait_until(lambda: output.getvalue() != before)
        shown.feed(b"INFO llm_engine.py:431] init engine (profile, create kv cache, warmup model) took 54.71 seconds\n")
        _wait_until(lambda: "attaching adapters, " in output.getvalue())
    assert " of 9.00 GiB" in output.getvalue() and "attaching adapters 10 of 23" not in output.getvalue()


def test_a_terminal_shows_the_progress_of_a_download(monkeypatch: pytest.MonkeyPatch):
    """A terminal shows the downloader's progress in its own units."""
    monkeypatch.setattr(progress, "REFRESH_S", 0.01)
    monkeypatch.setenv("TERM", "xterm")
    output = io.StringIO()
    with Progress(Console(file=output, force_terminal=True)) as shown:
        shown.feed(b"hub weights: 256.0 MiB of 5.31 GiB\nhub weights: 1.25 GiB of 5.31 GiB\n")
        _wait_until(lambda: "preparing the weights 1.25 GiB of 5.31 GiB" in output.getvalue())


def _wait_until(holds: Callable[[], bool]) -> None:
    end_s = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end_s
        time.sleep(0.01)


def test_a_ci_log_has_a_line_per_stage_with_its_memory():
    """A CI log has one line per stage with its memory, if that can be read, and no bar; none right after another process made the weights."""
    sizes = iter([None, 5 * GIB])
    output = io.StringIO()
    with Progress(Console(file=output), Gauge(lambda: next(sizes), None)) as shown:
        shown.feed(b'loadcheck: {"event": "weights_ready", "at_s": 1.0}\n')
        shown.feed(b'loadcheck: {"event": "started", "at_s": 2.0}\n')
        shown.feed(STAGES + BAR.format(percent=43, done=10).encode())
    lines = [line.partition("s  ")[2] for line in output.getvalue().splitlines()]
    assert lines == [
        "preparing the weights",
        "importing the libraries",
        "loading the weights",
        "capturing CUDA graphs, 5.00 GiB",
    ]


@pytest.mark.parametrize("terminal", ["dumb", "unknown"])
def test_a_dumb_terminal_has_a_line_per_stage(monkeypatch: pytest.MonkeyPatch, terminal: str):
    """A terminal that cannot overwrite a line, such as Emacs' shell, gets one line per stage, and is not left silent."""
    monkeypatch.setenv("TERM", terminal)
    output = io.StringIO()
    with Progress(Console(file=output, force_terminal=True)) as shown:
        shown.feed(STAGES)
    lines = [line.partition("s  ")[2] for line in output.getvalue().splitlines()]
    assert lines == ["preparing the weights", "capturing CUDA graphs"]


def test_the_largest_child_is_the_process_that_loads():
    """On a CPU the resident set of the largest child is read; without a child nothing is."""
    child = subprocess.Popen([sys.executable, "-c", "x = bytearray(50_000_000); print(flush=True); import time; time.sleep(30)"],
                             stdout=subprocess.PIPE)  # fmt: skip
    assert child.stdout is not None
    with child.stdout as ready:
        ready.readline()
        used = gauge(True, None).read()
    child.kill()
    child.wait()
    assert used is not None and used > 50_000_000
