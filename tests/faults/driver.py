"""loadcheck as its own process, with the stand-in for its engine and a pretended H100.

python -m tests.faults.driver ARGUMENTS of loadcheck. With CLOCK_JUMP_S the wall clock jumps back and forth once the stand-in has reached
its moment. Slow checks of the machine that no fault concerns are skipped.
"""

from __future__ import annotations

import datetime
import json
import os
import sys
import time
from pathlib import Path

from loadcheck import cli, device, doctor, preparing, running
from loadcheck.machine import Machine
from loadcheck.runs import child
from loadcheck.runs.folder import RunFolder

H100 = device.GpuDevice("NVIDIA H100 80GB HBM3", "9.0", 85017493504, 84465090560, "13.0")
GRACE_S = 1.0


def child_command(step: str, folder: RunFolder) -> list[str]:
    return [sys.executable, "-m", "tests.faults.stand_in", step, str(folder.path), str(os.getpid())]


def jumping(jump_s: float, scratch: Path) -> type[datetime.datetime]:
    """A wall clock that is off by `jump_s` from the fault's moment on; time.monotonic is not changed."""
    real = time.time

    def now_s() -> float:
        return real() + (jump_s if (scratch / "here").exists() else 0.0)

    class Jumping(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Jumping:
            return cls.fromtimestamp(now_s(), tz)

    time.time = now_s
    return Jumping


if __name__ == "__main__":
    if jump := os.environ.get("CLOCK_JUMP_S"):
        vars(running)["datetime"] = jumping(float(jump), Path(json.loads(os.environ["LOADCHECK_STAND_IN"])["scratch"]))
    child.GRACE_S = GRACE_S
    device.read_gpu = lambda: H100
    doctor.read_machine = lambda *_, **__: Machine()
    running.child_command = child_command
    preparing._require_packages = lambda profile: None
    cli.main()
