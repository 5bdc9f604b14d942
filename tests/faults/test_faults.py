"""After any fault of a load, its run folder records it, no process is left running, and no figure is lost.

Each kind is injected once here. `make faults` injects each at every moment, with real loads on the CPU, and writes docs/faults.md.
"""

import sys
from collections import Counter
from pathlib import Path

import pytest
from scripts.faults import DOCUMENT, read_rows

from tests.faults.conftest import Results
from tests.faults.harness import run_fault
from tests.faults.injectors import Unavailable
from tests.faults.matrix import FAULTS, Fault
from tests.faults.real import LOADCHECK, REAL_FAULTS, WeightsFault, run_cpu, run_real

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="faults need Linux: /proc, control groups, mounts")

MIDDLE = [
    pytest.param(fault, fault.moments[len(fault.moments) // 2], id=fault.name) for fault in FAULTS if not fault.slow
]
EVERY = [pytest.param(fault, moment, id=f"{fault.name}-{moment}") for fault in FAULTS for moment in fault.moments]


@pytest.mark.parametrize(("fault", "moment"), MIDDLE)
def test_a_fault_is_recorded_in_the_run(fault: Fault, moment: str):
    """Output is kept, the outcome is right, no process goes on, and later commands judge the run correctly."""
    try:
        run_fault(fault, moment)
    except Unavailable as why:
        pytest.skip(str(why))


@pytest.mark.faults
@pytest.mark.parametrize(("fault", "moment"), EVERY)
def test_a_fault_at_every_moment(fault: Fault, moment: str, results: Results):
    """The same at every moment of the load."""
    try:
        results.seen.append(run_fault(fault, moment))
    except Unavailable as why:
        results.skipped[fault.name] = str(why)
        pytest.skip(str(why))


@pytest.fixture(scope="module")
def warm_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model's weights, as a load leaves them in its cache."""
    if not LOADCHECK.exists():
        pytest.skip(".venv/cpu is not installed; `make faults` installs it")
    cache = tmp_path_factory.mktemp("warm")
    code, output = run_cpu(cache, "load", "smollm2-135m-cpu", "--run-dir", str(cache / "run"))
    assert code == 0, output
    return cache / "weights"


@pytest.mark.faults
@pytest.mark.cpu
@pytest.mark.parametrize("fault", REAL_FAULTS, ids=lambda fault: fault.name)
def test_damaged_weights_are_never_a_pass(fault: WeightsFault, warm_weights: Path, tmp_path: Path, results: Results):
    """With damaged weights the real engine makes them again, or the load fails with a reason."""
    results.seen.append(run_real(fault, warm_weights, tmp_path))


# --------------------------------------------------------------------------------------------------------- docs/faults.md


def test_the_document_is_up_to_date():
    """docs/faults.md is newer than the last kind of fault, and has a run of each at every moment."""
    planned = Counter({fault.name: len(fault.moments) for fault in FAULTS} | {fault.name: 1 for fault in REAL_FAULTS})
    assert {row.fault: row.runs for row in read_rows(DOCUMENT.read_text())} == planned


def test_the_document_has_enough_runs():
    """docs/faults.md has at least 12 kinds and 100 runs."""
    rows = read_rows(DOCUMENT.read_text())
    assert len(rows) >= 12
    assert sum(row.runs for row in rows) >= 100
