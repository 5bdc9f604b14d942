"""A pytest plugin that prints `~` when no test has ended for a while, so that `make test` is never silent (`pytest -p tests.heartbeat`)."""

import os
import threading
import time

import pytest

SILENCE_S = 2.5


class Heartbeat:
    """Writes to the stdout of before pytest captured it."""

    def __init__(self) -> None:
        self._out = os.dup(1)
        self._spoke_s = time.monotonic()
        self._ended = threading.Event()
        threading.Thread(target=self._beat, daemon=True).start()

    def _beat(self) -> None:
        while not self._ended.wait(0.25):
            if time.monotonic() - self._spoke_s > SILENCE_S:
                os.write(self._out, b"~")
                self._spoke_s = time.monotonic()

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self) -> None:
        self._spoke_s = time.monotonic()

    def pytest_sessionfinish(self) -> None:
        self._ended.set()


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # xdist's workers have no terminal
        config.pluginmanager.register(Heartbeat(), "heartbeat")
