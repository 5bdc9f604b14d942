"""What is shown while a load runs."""

import io
import time

import pytest
from rich.console import Console

from loadcheck.show import progress
from loadcheck.show.progress import Progress


def test_no_silence_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch):
    """A stage that takes long gets dots on a line of its own; the next stage begins a line; the end leaves none open."""
    monkeypatch.setattr(progress, "SILENCE_S", 0.01)
    said = io.StringIO()
    with Progress(Console(file=said)) as shown:
        for event in ("weights_ready", "started"):
            before = said.getvalue().count(".")
            while said.getvalue().count(".") < before + 2:
                time.sleep(0.005)
            shown.feed(f'loadcheck: {{"event": "{event}", "at_s": 1.0}}\n'.encode())
    lines = said.getvalue().splitlines()
    assert [line.split("s  ")[1] for line in lines if "s  " in line] == [
        "preparing the weights", "importing the libraries", "loading the weights"
    ]  # fmt: skip
    assert all(set(line) == {"."} for line in lines if "s  " not in line)
    assert said.getvalue().endswith("\n")
