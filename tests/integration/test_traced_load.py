"""The real load on the CPU under an audit hook of Python (PEP 578): what it opens, and what it does not. env/vex.toml names this as a proof."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from loadcheck.plan import make_plan, plan_to_json
from loadcheck.specs.profile import load_profile
from tests.conftest import ROOT

PYTHON = ROOT / ".venv" / "cpu" / "bin" / "python"

TRACED = """
import json, os, pickle, sys
from collections import OrderedDict
seen, out = [], sys.argv[2]
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC

def watch(event, arguments):
    if event in ("socket.connect", "socket.bind", "socket.getaddrinfo", "pickle.find_class"):
        seen.append([event, repr(arguments)[:300]])
    elif event == "open" and isinstance(arguments[0], str) and arguments[2] & WRITES:
        seen.append(["write", os.path.abspath(arguments[0])])

sys.addaudithook(watch)
from loadcheck.engines.child import main
codes = [main([step, sys.argv[1]]) for step in ("prepare", "load")]
before = list(seen)
pickle.loads(pickle.dumps(OrderedDict()))  # the hook itself works
with open(out, "w") as file:
    json.dump({"codes": codes, "seen": before, "control": seen[len(before):]}, file)
os._exit(0)
"""

pytestmark = [
    pytest.mark.cpu,
    pytest.mark.xdist_group("real loads"),
    pytest.mark.skipif(not PYTHON.exists(), reason=".venv/cpu is not installed; `make test` installs it"),
]


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """What the hook saw of a load in one process, and its folder."""
    folder = tmp_path_factory.mktemp("traced")
    (folder / "plan.json").write_text(json.dumps(plan_to_json(make_plan(load_profile("smollm2-135m-cpu")))))
    command = [str(PYTHON), "-B", "-c", TRACED, str(folder), str(folder / "trace.json")]
    done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ), timeout=600, check=False)
    assert (folder / "trace.json").exists(), done.stderr[-2000:]
    return json.loads((folder / "trace.json").read_text()), folder


def test_the_hook_sees_pickles(traced):
    """The load ended well, and a pickle after it is seen."""
    assert traced[0]["codes"] == [0, 0]
    assert [event for event, _ in traced[0]["control"] if event != "write"] == ["pickle.find_class"]


def test_a_load_opens_no_pickle_and_no_connection(traced):
    """No class is looked up by a pickle, no address is asked for, nothing is connected to.

    urllib3 binds port 0 of ::1 as it is imported, to know whether this machine has IPv6, and listens to nothing (util/connection.py at 2.6: _has_ipv6).
    """
    assert [(event, what) for event, what in traced[0]["seen"] if event != "write" and "('::1', 0)" not in what] == []


def test_a_load_changes_nothing_that_is_installed(traced):
    """No file of the checkout or of the environment's packages is opened for writing."""
    written = {path for event, path in traced[0]["seen"] if event == "write"}
    assert str(traced[1] / "weights.json") in written
    assert {path for path in written if path.startswith(str(ROOT))} == set()


def test_transformers_fetches_no_kernels():
    """The release has no module for kernels of the hub, and the package that would fetch them is not installed."""
    code = "from importlib.util import find_spec as f; print(f('transformers.integrations.hub_kernels'), f('kernels'))"
    assert subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, check=True).stdout.split() == [
        "None",
        "None",
    ]
