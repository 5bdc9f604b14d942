"""Starts the process that compiles vLLM's LoRA kernels while the engine imports, waits for it, or skips it (see kernels.py)."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import asdict, dataclass
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from loadcheck.specs.shape import ModelConfig

MODULE = "loadcheck.stacks.unsloth_vllm.kernels"


@dataclass(frozen=True, slots=True)
class Sizes:
    """What the kernels of a load depend on.

    Attributes:
        capability: the card's, such as 90.
        linears: (in, out) of each projection of a layer, by its name.
    """

    capability: int
    rank: int
    hidden_size: int
    vocab_size: int
    linears: dict[str, tuple[int, int]]

    @classmethod
    def of(cls, config: ModelConfig, rank: int, capability: int) -> Sizes:
        linears = {name: (size_in, size_out) for name, (size_in, size_out) in config.linears.items()}
        return cls(capability, rank, config.hidden_size, config.vocab_size, linears)

    @classmethod
    def from_json(cls, text: str) -> Sizes:
        return cls(**json.loads(text))

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @property
    def marker(self) -> Path:
        """A file in Triton's cache (triton/runtime/cache.py:11-12) saying that these kernels have been compiled into it."""
        folder = os.environ.get("TRITON_CACHE_DIR") or Path.home() / ".triton" / "cache"
        what = "\n".join((self.to_json(), *map(_version, ("triton", "vllm"))))
        return Path(folder, f"loadcheck-{sha256(what.encode()).hexdigest()[:16]}")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


class KernelCompiler(threading.Thread):
    """Runs the process, unless there is no driver or the kernels have been compiled before.

    It asks the driver only once `pinned` is set: whoever starts the driver decides which GPU this process sees (device.pin_gpu).
    """

    def __init__(self, config: ModelConfig, rank: int, pinned: threading.Event) -> None:
        super().__init__(daemon=True)
        self._config, self._rank, self._pinned = config, rank, pinned
        self._process: subprocess.Popen[bytes] | None = None
        self._ended, self._lock = False, threading.Lock()

    def run(self) -> None:
        with suppress(Exception):  # the load then compiles them itself
            self._pinned.wait()
            capability = device_capability()
            if capability is not None:
                self._compile(Sizes.of(self._config, self._rank, capability))

    def _compile(self, sizes: Sizes) -> None:
        if sizes.marker.exists():
            return
        command = [sys.executable, "-m", MODULE, sizes.to_json()]
        env = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}  # it uses no device
        quiet = subprocess.DEVNULL
        with self._lock:
            if self._ended:
                return
            self._process = subprocess.Popen(command, env=env, stdin=quiet, stdout=quiet, stderr=quiet)
        self._process.wait()

    def finish(self, timeout_s: float = 60.0) -> None:
        """Wait for the process, and end it if it takes too long: its memory must not count when the RAM available is read.

        One that has not been started by then is not started any more.
        """
        self.join(timeout_s)
        with self._lock:
            self._ended = True
        if self.is_alive() and self._process is not None:
            self._process.terminate()
            self.join(5)


def device_capability() -> int | None:
    """The capability of the first device that this process sees, such as 90; None without a driver."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    if cuda.cuInit(0) or cuda.cuDeviceGet(ctypes.byref(device), 0):
        return None
    cuda.cuDeviceGetAttribute(ctypes.byref(major), 75, device)  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR
    cuda.cuDeviceGetAttribute(ctypes.byref(minor), 76, device)  # …_MINOR
    return major.value * 10 + minor.value
