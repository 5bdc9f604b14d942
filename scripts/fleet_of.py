"""How long gathering a fleet of many nodes takes, and how much memory: fleet_of.py [NODES], 10,000 by default."""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.fleets import fleet

from loadcheck.fleet.gather import gather_folder

MIB = 1024**2


def main() -> int:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    with TemporaryDirectory() as folder:
        fleet(Path(folder), count)
        start_s = time.monotonic()
        verdict = gather_folder(Path(folder))
        took_s = time.monotonic() - start_s
    peaks = [resource.getrusage(who).ru_maxrss * 1024 / MIB for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    print(
        f"{count} nodes: {verdict.status}, {took_s:.1f} s; at most {peaks[0]:.0f} MiB here, {peaks[1]:.0f} MiB in a worker"
    )
    return verdict.exit_code


if __name__ == "__main__":
    raise SystemExit(main())
