"""Write docs/faults.md from the results of `make faults` (build/faults/results.json).

The runs are those of tests/faults; each counted run passed all checks of its test.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "build" / "faults" / "results.json"
DOCUMENT = ROOT / "docs" / "faults.md"

HEAD = """# Faults

What happens to a run when something else goes wrong: {runs} runs of {kinds} kinds of fault. `make faults` injects them (`tests/faults`) and
writes this page. Seen on {date} at commit {commit}, on {machine}.

After each run the tests require that

- the run folder exists, its run.json is valid and states the outcome below;
- `loadcheck load` ended with the exit code below, and `report` and `check` judge the folder without an error;
- there is no PASS unless the load finished;
- no process of the loading process's session is alive, nor one that it had left in a group of its own;
- each figure printed before the fault can be read from the run's log.

All but the last {real} kinds run the real parent with a stand-in for the engine: it prints the log of a real load on an H100, then injects the
fault at each of the moments named. The last {real} are real loads of SmolLM2 on the CPU.

| fault | runs | at | run.json says | exit code | orphans | figures kept |
|---|---|---|---|---|---|---|
"""

TAIL = """
What these runs cannot show:

- A process that the engine starts in a session of its own is out of reach.
- A machine that loses power loses what its disk had not written.
- A process that hangs inside the kernel cannot be killed.
- A checkpoint of the same shape, put into the cache with its own hashes, looks like the one that it replaces if it answers as well.
- When the disk is full, the log moves to the temporary folder that run.json names; `report` and `check` judge what stayed in the run folder.
"""


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table: its kinds and the number of runs."""

    fault: str
    runs: int


def read_rows(document: str) -> list[Row]:
    """The lines of the document's table."""
    return [Row(name, int(runs)) for name, runs in re.findall(r"(?m)^\| \*\*([a-z0-9-]+)\*\*.*?\| (\d+) \|", document)]


def main() -> int:
    from tests.faults.matrix import FAULTS
    from tests.faults.real import REAL_FAULTS

    data = json.loads(RESULTS.read_text(encoding="utf-8"))
    lines, runs = [], 0
    for fault in (*FAULTS, *REAL_FAULTS):
        seen = [each for each in data["seen"] if each["fault"] == fault.name]
        if not seen:
            print(f"{fault.name}: no run ({data['skipped'].get(fault.name, 'it failed')}); nothing is written")
            return 1
        runs += len(seen)
        lines.append(row(fault.name, fault.what, seen))
    head = HEAD.format(
        runs=runs, kinds=len(lines), real=len(REAL_FAULTS), commit=commit(), machine=machine(),
        date=f"{datetime.now(timezone.utc):%Y-%m-%d}",
    )  # fmt: skip
    DOCUMENT.write_text(head + "\n".join(lines) + "\n" + TAIL, encoding="utf-8")
    print(f"{DOCUMENT.relative_to(ROOT)}: {runs} runs of {len(lines)} kinds")
    return 0


def row(name: str, what: str, seen: list[dict[str, Any]]) -> str:
    says = Counter(each["outcome"] + (f": {each['reason']}" if each["reason"] else "") for each in seen)
    codes = Counter(
        str(each["exit_code"]) if each["exit_code"] >= 0 else f"signal {-each['exit_code']}" for each in seen
    )
    figures = [each["figures"] for each in seen]
    kept = (
        ""
        if not any(figures)
        else f"all of {min(figures)} to {max(figures)}"
        if len(set(figures)) > 1
        else f"all {figures[0]}"
    )
    cells = (
        f"**{name}**<br>{what}", str(len(seen)), ", ".join(each["moment"] for each in seen), "<br>".join(says),
        " or ".join(codes), "0", kept,
    )  # fmt: skip
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def commit() -> str:
    done = subprocess.run(
        ["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def machine() -> str:
    release = ".".join(platform.release().split(".")[:2])
    return f"Linux {release}, {platform.machine()}, {os.cpu_count()} cores, as root"


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main())
