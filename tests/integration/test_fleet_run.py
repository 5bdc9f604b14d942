"""fleet run and fleet node: each node answers or is lost, no process outlives the call, and a lost node is no pass."""

import json
import os
import re
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

from loadcheck import cli
from loadcheck.device import PIN, device_used_reader, pin_gpu
from loadcheck.errors import BadInput, Problem, UnsupportedMachine
from loadcheck.fleet.finding import Kind
from loadcheck.fleet.gather import gather_folder
from loadcheck.fleet.launch import launch
from loadcheck.fleet.local import run_local, slots, visible
from loadcheck.fleet.node import pin_visible, run_node
from loadcheck.fleet.plan import NAME, FleetPlan, write_plan
from loadcheck.fleet.seal import REFUSED, SEAL
from tests.fleets import STARTED, Node, plan_of

# What a node's process does, by the node's name.
NODE = """\
import os, signal, sys, time
from pathlib import Path
name, results = os.environ["LOADCHECK_NODE"], Path({results!r})
(results / (name + ".gpu")).write_text(os.environ.get("LOADCHECK_GPU", ""))
(results / (name + ".fleet")).write_text(os.environ["LOADCHECK_FLEET"])
if name.startswith("lost") and not (results / name / "1").exists():
    (results / name / "1").mkdir(parents=True)
    (results / name / "1" / "load.log").write_text("killed\\n")
    os.kill(os.getpid(), signal.SIGKILL)
if name.startswith("slow"):
    time.sleep(60)
sys.path.insert(0, {root!r})
from tests.fleets import Node
Node(results, name, len(name), "2")
"""
ROOT = str(Path(__file__).resolve().parents[2])


@pytest.fixture
def stand_in_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host with two H200 and one T4, where a stand-in of loadcheck makes each node's result by its name."""
    script, results = tmp_path / "node.py", tmp_path / "results"
    results.mkdir()
    script.write_text(NODE.format(root=ROOT, results=str(results)))
    monkeypatch.setattr("loadcheck.fleet.local.command_of", lambda plan: [sys.executable, str(script)])
    gpus = (("GPU-a", "NVIDIA H200"), ("GPU-b", "Tesla T4"), ("GPU-c", "NVIDIA H200"))
    monkeypatch.setattr("loadcheck.fleet.local.read_gpus", lambda: gpus)
    return results


def _plan(results: Path, *names: str, **changes: Any) -> FleetPlan:
    return plan_of(names, results=str(results), **changes)


def test_each_node_has_a_gpu_of_its_own(stand_in_results: Path):
    """Each node gets a GPU of its card, by UUID; with more nodes than GPUs nothing is started."""
    assert [slot.gpu for slot in slots(_plan(stand_in_results, "a", "b"))] == ["GPU-a", "GPU-c"]
    with pytest.raises(UnsupportedMachine, match="3 nodes with H200, but this host has 2"):
        slots(_plan(stand_in_results, "a", "b", "c"))


@pytest.mark.parametrize(
    ("variable", "left"),
    [(None, ["a", "b", "c"]), ("2,0", ["c", "a"]), ("GPU-b", ["b"]), ("0,7,1", ["a"]), ("", []), ("-1", []), ("0,0", ["a"]), ("GPU-", [])],
)  # fmt: skip
def test_gpus_of_other_jobs_are_left_alone(variable: str | None, left: list[str]):
    """CUDA_VISIBLE_DEVICES is read as CUDA does: numbers or UUIDs, up to the first that matches no GPU, or several."""
    gpus = [(f"GPU-{letter}", "Tesla T4") for letter in "abc"]
    assert [uuid for uuid, _ in visible(gpus, variable)] == [f"GPU-{letter}" for letter in left]


def test_a_job_with_one_gpu_runs_on_it(stand_in_results: Path, monkeypatch: pytest.MonkeyPatch):
    """A job with one GPU runs on it, and a plan that needs more is refused."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2")
    assert [slot.gpu for slot in slots(_plan(stand_in_results, "a"))] == ["GPU-c"]
    with pytest.raises(UnsupportedMachine, match="2 nodes with H200, but this host has 1"):
        slots(_plan(stand_in_results, "a", "b"))


def test_nodes_run_side_by_side_and_pass(stand_in_results: Path, capsys: pytest.CaptureFixture[str]):
    """The command runs the plan, pins each node, gathers, and exits with the fleet's exit code."""
    plan = _plan(stand_in_results, "one", "other")
    write_plan(plan, stand_in_results.parent / "plan" / NAME)
    assert cli.run(["fleet", "run", str(stand_in_results.parent / "plan"), "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["counts"] == {"pass": 2}
    assert "one: GPU-a" in err and "other: exit code 0" in err
    assert cli.run(["fleet", "run", str(stand_in_results.parent / "plan")]) == 2
    assert "already holds runs of 2 of its nodes" in capsys.readouterr().err
    assert [(stand_in_results / f"{name}.gpu").read_text() for name in ("one", "other")] == ["GPU-a", "GPU-c"]
    assert (stand_in_results / "one.fleet").read_text() == plan.identity


@pytest.mark.parametrize("retries", [0, 1])
def test_a_lost_node_is_named_and_never_a_pass(stand_in_results: Path, retries: int):
    """A lost node is retried as often as the plan says; a later pass is reported, but the node does not pass."""
    told: list[str] = []
    plan = _plan(stand_in_results, "lost", retries=retries)
    assert run_local(plan, stand_in_results.parent, told.append)
    write_plan(plan, stand_in_results / NAME)
    verdict = gather_folder(stand_in_results)
    assert any("lost after" in line and "-9" in line for line in told)
    assert [node.status for node in verdict.nodes] == ["retried" if retries else "fail"]
    assert not verdict.passed and (Kind.RETRIED in {each.kind for each in verdict.findings}) is bool(retries)


def test_an_interruption_leaves_no_process(stand_in_results: Path):
    """On interruption running nodes are stopped and waiting ones not started, and both are reported."""
    told: list[str] = []

    def say(line: str) -> None:
        told.append(line)
        if line.startswith("slow-b"):
            raise KeyboardInterrupt

    begun_s = time.monotonic()
    plan = _plan(stand_in_results, "slow-a", "slow-b", options={"workers": 2})
    assert run_local(plan, stand_in_results.parent, say) is False
    assert time.monotonic() - begun_s < 50 and told[-1].startswith("interrupted: 1 running nodes are stopped")
    mine = {int(pid) for pid in os.listdir("/proc") if pid.isdecimal() and _parent(pid) == os.getpid()}
    assert not any(b"node.py" in Path(f"/proc/{pid}/cmdline").read_bytes() for pid in mine)


def _parent(pid: str) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def test_a_node_that_takes_too_long_is_lost(stand_in_results: Path):
    """A node that takes too long is killed and reported."""
    told: list[str] = []
    assert run_local(replace(_plan(stand_in_results, "slow"), minutes=0), stand_in_results.parent, told.append)
    after = re.fullmatch(r"slow: lost after (\d+) s \(exit code -9\)", told[-1])
    assert after is not None and int(after[1]) < 60  # as long as it sleeps


def test_a_node_seals_its_loads_results(tmp_path: Path):
    """A node seals its load's results in a folder below its name, and exits with the load's exit code."""

    def load(folder: Path) -> int:
        made = Node(tmp_path / "made", "a", 1)
        (made.path / SEAL).unlink()
        folder.parent.mkdir(parents=True)
        made.path.rename(folder)
        return 1

    assert run_node(tmp_path / "results", load, {"LOADCHECK_NODE": "a"}) == 1
    (folder,) = (tmp_path / "results" / "a").iterdir()
    assert (folder / SEAL).read_text().splitlines()[0].endswith("  run.json")
    with pytest.raises(BadInput, match="LOADCHECK_NODE"):
        run_node(tmp_path, load, {})


def test_a_load_that_did_not_start_is_a_refusal(tmp_path: Path):
    """A load that did not start is a refusal in the node's own words, not a missing node."""

    def load(folder: Path) -> int:
        raise UnsupportedMachine(Problem("driver", "is too old", "install 525"))

    with pytest.raises(UnsupportedMachine):
        run_node(tmp_path, load, {"LOADCHECK_NODE": "a"})
    write_plan(plan_of(["a"], created_at=STARTED), tmp_path / NAME)
    (finding,) = gather_folder(tmp_path).findings
    assert (finding.kind, finding.what) == (Kind.REFUSED, "driver: is too old; install 525")
    (file,) = tmp_path.glob(f"a/*/{REFUSED}")
    file.write_text("[]")
    assert [each.kind for each in gather_folder(tmp_path).findings] == [Kind.UNREADABLE]


def test_the_command_of_a_node_is_a_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Profile and flags of a node are those of `load`; here the stack is missing, which is printed and kept."""
    monkeypatch.setenv("LOADCHECK_NODE", "cpu-0")
    monkeypatch.setattr("loadcheck.preparing.importlib.util.find_spec", lambda name: None)
    assert cli.run(["fleet", "node", str(tmp_path), "smollm2-135m-cpu", "--max-seq-length", "256"]) == 3
    (file,) = tmp_path.glob(f"cpu-0/*/{REFUSED}")
    assert "this environment lacks torch" in json.loads(file.read_text())["why"][0]
    assert cli.run(["fleet", "node", str(tmp_path), "smollm2-135m-cpu", "--no-such-flag"]) == 2


@pytest.mark.parametrize(
    ("visible", "pinned"),
    [(None, None), ("0", None), ("0,1", None), ("-1", None), ("1", "GPU-b"), ("GPU-x,GPU-y", "GPU-x"), ("9", None)],
)
def test_the_gpu_that_a_scheduler_chose_is_pinned(
    visible: str | None, pinned: str | None, monkeypatch: pytest.MonkeyPatch
):
    """Slurm and Ray set CUDA_VISIBLE_DEVICES, of which the pinned stack reads only 0, so the chosen GPU is pinned."""
    monkeypatch.setattr("loadcheck.fleet.node.read_gpus", lambda: (("GPU-a", "Tesla T4"), ("GPU-b", "Tesla T4")))
    environ = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    pin_visible(environ)
    assert environ.get(PIN) == pinned
    assert ("CUDA_VISIBLE_DEVICES" in environ) is (visible is not None and pinned is None)
    assert environ.get("CUDA_VISIBLE_DEVICES") != "0,1"  # of several it takes the first


def test_a_pinned_gpu_stays_pinned():
    """A GPU that `fleet run` has pinned stays so; the variable would only be refused."""
    environ = {PIN: "GPU-b", "CUDA_VISIBLE_DEVICES": "1,0"}
    pin_visible(environ)
    assert environ == {PIN: "GPU-b"}


def test_a_pinned_process_sees_only_its_gpu(monkeypatch: pytest.MonkeyPatch):
    """The driver reads the variable once at its start; afterwards it is 0, which the pinned stack reads."""
    seen = []

    class Driver:
        def cuInit(self, flags: int) -> int:  # noqa: N802
            seen.append(os.environ.get("CUDA_VISIBLE_DEVICES"))
            return 0

    monkeypatch.setattr("loadcheck.device.ctypes.CDLL", lambda name: Driver())
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    pin_gpu()
    assert seen == [] and "CUDA_VISIBLE_DEVICES" not in os.environ
    monkeypatch.setenv(PIN, "GPU-b")
    pin_gpu()
    assert (seen, os.environ["CUDA_VISIBLE_DEVICES"]) == (["GPU-b"], "0")


def test_the_memory_in_use_is_that_of_the_pinned_gpu(monkeypatch: pytest.MonkeyPatch):
    """NVML ignores the variable, so it is asked by UUID."""
    nvml = SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlMemory_v2=2,
        nvmlDeviceGetHandleByUUID=lambda uuid: uuid,
        nvmlDeviceGetHandleByIndex=lambda number: number,
        nvmlDeviceGetMemoryInfo=lambda handle, version: SimpleNamespace(used={0: 1, "GPU-b": 2}[handle]),
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    assert device_used_reader()() == 1
    monkeypatch.setenv(PIN, "GPU-b")
    assert device_used_reader()() == 2


@pytest.fixture
def sky(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for `sky` that records its arguments, and fails for what FAILS names."""
    tool = tmp_path / "bin" / "sky"
    tool.parent.mkdir()
    tool.write_text('#!/bin/sh\necho "$@" >>given\n[ "$1" != "$FAILS" ]\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
    return tmp_path


@pytest.mark.parametrize(
    ("fails", "given", "last"),
    [
        ("", ["launch", "launch"], "sky launch"),
        ("launch", ["launch", "launch", "down", "down"], "nothing is left running"),
        ("down", ["launch", "launch"], "sky launch"),
    ],
)
def test_an_engine_is_run_by_its_own_command(
    sky: Path, fails: str, given: list[str], last: str, monkeypatch: pytest.MonkeyPatch
):
    """Each unit is started; if one fails, all are stopped."""
    monkeypatch.setenv("FAILS", fails)
    told: list[str] = []
    assert launch(_two_units(), sky, told.append)
    assert [line.split()[0] for line in (sky / "given").read_text().splitlines()] == given
    assert told[-1].startswith(last)


def test_units_that_may_still_cost_money_are_named(sky: Path, monkeypatch: pytest.MonkeyPatch):
    """On interruption all units are stopped; those that cannot be are named, with the command to stop them."""
    monkeypatch.setenv("FAILS", "down")
    told: list[str] = []

    def say(line: str) -> None:
        told.append(line)
        if line.startswith("sky launch"):
            raise KeyboardInterrupt

    assert launch(_two_units(), sky, say) is False
    assert [line for line in told if line.startswith("NOT STOPPED")] == [
        f"NOT STOPPED, and it may still cost money: sky down --yes test-{unit}" for unit in ("t4", "l4")
    ]


def test_a_missing_engine_exits_3(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Without the engine's command the exit code is 3, and the command is named."""
    monkeypatch.setenv("PATH", str(tmp_path))
    write_plan(_two_units(), tmp_path / NAME)
    assert cli.run(["fleet", "run", str(tmp_path)]) == 3


def test_remote_results_are_no_pass(sky: Path, capsys: pytest.CaptureFixture[str]):
    """Results that are not on this machine are not judged: exit code 1, and how to gather them."""
    write_plan(_two_units(), sky / NAME)
    assert cli.run(["fleet", "run", str(sky), "--json"]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["verdict"] == "skipped" and "fleet gather RESULTS --plan" in err


def _two_units() -> FleetPlan:
    plan = plan_of(["t4-0", "l4-0"], engine="skypilot", results="s3://mine/fleet")
    return replace(plan, nodes=tuple(replace(node, unit=node.node[:2]) for node in plan.nodes))
