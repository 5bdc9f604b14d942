"""Samples device and host memory during the load, ten times a second."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec
import psutil

from loadcheck.device import device_used_reader, ram_available_bytes
from loadcheck.runs.json_file import own_file
from loadcheck.runs.private import open_private

INTERVAL_S = 0.1
MAX_SECONDS = 10_000_000.0
MAX_BYTES = 2**63
MAX_FILE_BYTES = 64 * 1024 * 1024
"""Room for days of samples, but a hostile file cannot fill memory."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample, `t_s` seconds after its process began; None for what could not be read."""

    t_s: float
    device_used_bytes: int | None
    child_rss_bytes: int | None


def read_samples(path: Path) -> list[list[Sample]]:
    """The samples of memory.jsonl, one list per process; empty without the file. Invalid lines are skipped.

    BadInput if `path` is not a regular file.
    """
    try:
        with own_file(path).open("rb") as file:
            lines = file.read(MAX_FILE_BYTES).splitlines()
    except OSError:
        return []
    processes: list[list[Sample]] = []
    for sample in filter(None, map(_parsed, lines)):
        if not processes or sample.t_s < processes[-1][-1].t_s:
            processes.append([])
        processes[-1].append(sample)
    return processes


def _parsed(line: bytes) -> Sample | None:
    try:
        data = msgspec.json.decode(line, type=Sample)
    except (msgspec.DecodeError, RecursionError):
        return None
    used = (data.device_used_bytes, data.child_rss_bytes)
    sane = 0 <= data.t_s < MAX_SECONDS and all(size is None or 0 <= size < MAX_BYTES for size in used)
    return data if sane else None


class Sampler:
    """Appends {"t_s", "device_used_bytes", "child_rss_bytes", "ram_available_bytes"} lines until stopped.

    Keeps the peaks in memory, too, so that they survive a full disk.
    """

    def __init__(self, path: Path, pid: int) -> None:
        self.peak_device_bytes: int | None = None
        self.peak_child_bytes: int | None = None
        self._path = path
        self._pid = pid
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        device_used = device_used_reader()
        start_s = time.monotonic()
        try:
            with open_private(self._path, "a", encoding="ascii") as file:
                while not self._stop.wait(INTERVAL_S):
                    sample = self._sample(device_used())
                    file.write(json.dumps({"t_s": round(time.monotonic() - start_s, 2), **sample}) + "\n")
                    file.flush()
        except OSError:
            while not self._stop.wait(INTERVAL_S):  # the disk is full: at least keep the peaks
                self._sample(device_used())

    def _sample(self, device_used_bytes: int | None) -> dict[str, int | None]:
        child_rss_bytes = _rss_bytes(self._pid)
        self.peak_device_bytes = _larger(self.peak_device_bytes, device_used_bytes)
        self.peak_child_bytes = _larger(self.peak_child_bytes, child_rss_bytes)
        return {
            "device_used_bytes": device_used_bytes,
            "child_rss_bytes": child_rss_bytes,
            "ram_available_bytes": ram_available_bytes(),
        }


def _rss_bytes(pid: int) -> int | None:
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return None


def _larger(first: int | None, second: int | None) -> int | None:
    return max((value for value in (first, second) if value is not None), default=None)
