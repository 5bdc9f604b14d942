"""A real CPU load under a Python audit hook (PEP 578): what it opens, and what it does not. env/vex.toml names this as a proof."""

import json
import subprocess

import pytest

from loadcheck.plan import make_plan, plan_to_json
from loadcheck.specs.profile import load_profile
from tests.conftest import ROOT
from tests.traces import Trace, trace

PYTHON = ROOT / ".venv" / "cpu" / "bin" / "python"

pytestmark = [
    pytest.mark.cpu,
    pytest.mark.xdist_group("real loads"),
    pytest.mark.skipif(not PYTHON.exists(), reason=".venv/cpu is not installed; `make test` installs it"),
]


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    """What the hook saw of a load in one process, including making its weights."""
    folder = tmp_path_factory.mktemp("traced")
    (folder / "run").mkdir()
    (folder / "run" / "plan.json").write_text(json.dumps(plan_to_json(make_plan(load_profile("smollm2-135m-cpu")))))
    return trace(PYTHON, folder, "run", "{RUN}", "prepare", "load")


def test_the_hook_sees_pickles(traced: Trace):
    """The load passes, and a pickle opened after it is seen."""
    assert traced.code == 0
    assert traced.control == ["pickle"]


def test_a_load_opens_no_pickle_or_connection(traced: Trace):
    """No pickle looks up a class, and nothing is resolved, connected to or listened on."""
    assert [f"{each.by} {each.what}" for each in traced.seen if each.kind in ("pickle", "network", "process")] == [
        "urllib3/util/connection.py bind ('::1', 0)"  # to detect IPv6; see tests/traced.toml
    ]
    assert traced.listened == set()


def test_a_load_changes_no_installed_file(traced: Trace):
    """No file of the checkout or of the installed packages is opened for writing."""
    written = {each.what for each in traced.seen if each.kind == "write"}
    assert f"{traced.places['RUN']}/weights.json" in written
    assert {path for path in written if path.startswith(str(ROOT))} == set()


def test_a_load_does_nothing_unexplained(traced: Trace):
    """Everything a load does beside computing is in tests/traced.toml, with the reason."""
    assert traced.imports() + traced.load() == []


def test_transformers_fetches_no_kernels():
    """The release has no module for the hub's kernels, and the package that would fetch them is not installed."""
    code = "from importlib.util import find_spec as f; print(f('transformers.integrations.hub_kernels'), f('kernels'))"
    assert subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, check=True).stdout.split() == [
        "None",
        "None",
    ]
