"""Whatever happens to a load: its run folder says so, nothing of it is left running, and no figure is lost.

Each kind once here; `make faults` injects each at every moment of the load, with real loads on the CPU, and writes docs/faults.md.
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
def test_a_fault_leaves_a_run_that_says_so(fault: Fault, moment: str):
    """What was printed is kept, the outcome is the true one, no process goes on, and later commands judge as they should."""
    try:
        run_fault(fault, moment)
    except Unavailable as why:
        pytest.skip(str(why))


@pytest.mark.faults
@pytest.mark.parametrize(("fault", "moment"), EVERY)
def test_a_fault_at_every_moment(fault: Fault, moment: str, results: Results):
    """The same, wherever in the load it happens."""
    try:
        results.seen.append(run_fault(fault, moment))
    except Unavailable as why:
        results.skipped[fault.name] = str(why)
        pytest.skip(str(why))


@pytest.fixture(scope="module")
def warm_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights of the small model, as a load leaves them in its cache."""
    if not LOADCHECK.exists():
        pytest.skip(".venv/cpu is not installed; `make faults` installs it")
    cache = tmp_path_factory.mktemp("warm")
    code, said = run_cpu(cache, "load", "smollm2-135m-cpu", "--run-dir", str(cache / "run"))
    assert code == 0, said
    return cache / "weights"


@pytest.mark.faults
@pytest.mark.cpu
@pytest.mark.parametrize("fault", REAL_FAULTS, ids=lambda fault: fault.name)
def test_damaged_weights_are_never_a_pass(fault: WeightsFault, warm_weights: Path, tmp_path: Path, results: Results):
    """The real engine on damaged weights: they are made anew, or the load fails in words."""
    results.seen.append(run_real(fault, warm_weights, tmp_path))


# --------------------------------------------------------------------------------------------------------- docs/faults.md


def test_the_document_has_every_kind():
    """docs/faults.md was written after the last kind was added, with a run of each at every moment."""
    planned = Counter({fault.name: len(fault.moments) for fault in FAULTS} | {fault.name: 1 for fault in REAL_FAULTS})
    assert {row.fault: row.runs for row in read_rows(DOCUMENT.read_text())} == planned


def test_the_document_keeps_what_was_promised():
    """At least 12 kinds and 100 runs."""
    rows = read_rows(DOCUMENT.read_text())
    assert len(rows) >= 12
    assert sum(row.runs for row in rows) >= 100
