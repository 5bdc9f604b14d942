"""fleet run and fleet node: a node is lost or it answers, nothing of it outlives the call, and nothing that was lost is a pass."""

import json
import os
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

# What a node's process does, by its name.
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
def standing_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The results of nodes that a stand-in of loadcheck makes, by their names; on a host with two H200 and one T4."""
    script, results = tmp_path / "node.py", tmp_path / "results"
    results.mkdir()
    script.write_text(NODE.format(root=ROOT, results=str(results)))
    monkeypatch.setattr("loadcheck.fleet.local.command_of", lambda plan: [sys.executable, str(script)])
    gpus = (("GPU-a", "NVIDIA H200"), ("GPU-b", "Tesla T4"), ("GPU-c", "NVIDIA H200"))
    monkeypatch.setattr("loadcheck.fleet.local.read_gpus", lambda: gpus)
    return results


def _plan(results: Path, *names: str, **changes: Any) -> FleetPlan:
    return plan_of(names, results=str(results), **changes)


def test_each_node_has_a_gpu_of_its_own(standing_in: Path):
    """By UUID, and of its card; with more nodes than GPUs nothing is begun."""
    assert [slot.gpu for slot in slots(_plan(standing_in, "a", "b"))] == ["GPU-a", "GPU-c"]
    with pytest.raises(UnsupportedMachine, match="3 nodes of H200, and this host has 2"):
        slots(_plan(standing_in, "a", "b", "c"))


@pytest.mark.parametrize(
    ("said", "left"),
    [(None, ["a", "b", "c"]), ("2,0", ["c", "a"]), ("GPU-b", ["b"]), ("0,7,1", ["a"]), ("", []), ("-1", []), ("0,0", ["a"]), ("GPU-", [])],
)  # fmt: skip
def test_gpus_that_a_scheduler_gave_to_others_are_left_alone(said: str | None, left: list[str]):
    """CUDA_VISIBLE_DEVICES as CUDA reads it: numbers or UUIDs, up to the first that names no GPU, or several."""
    gpus = [(f"GPU-{letter}", "Tesla T4") for letter in "abc"]
    assert [uuid for uuid, _ in visible(gpus, said)] == [f"GPU-{letter}" for letter in left]


def test_a_job_of_one_gpu_runs_on_that_one(standing_in: Path, monkeypatch: pytest.MonkeyPatch):
    """And a plan for more is refused."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2")
    assert [slot.gpu for slot in slots(_plan(standing_in, "a"))] == ["GPU-c"]
    with pytest.raises(UnsupportedMachine, match="2 nodes of H200, and this host has 1"):
        slots(_plan(standing_in, "a", "b"))


def test_nodes_run_side_by_side_and_pass(standing_in: Path, capsys: pytest.CaptureFixture[str]):
    """The command runs the plan, pins each node, gathers, and its exit code is the fleet's."""
    plan = _plan(standing_in, "one", "other")
    write_plan(plan, standing_in.parent / "plan" / NAME)
    assert cli.run(["fleet", "run", str(standing_in.parent / "plan"), "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["counts"] == {"pass": 2}
    assert "one: GPU-a" in err and "other: exit code 0" in err
    assert cli.run(["fleet", "run", str(standing_in.parent / "plan")]) == 2
    assert "already holds runs of 2 of its nodes" in capsys.readouterr().err
    assert [(standing_in / f"{name}.gpu").read_text() for name in ("one", "other")] == ["GPU-a", "GPU-c"]
    assert (standing_in / "one.fleet").read_text() == plan.identity


@pytest.mark.parametrize("retries", [0, 1])
def test_a_lost_node_is_named_and_never_a_pass(standing_in: Path, retries: int):
    """Tried again as often as the plan says; a further try that passes is told, and is no pass."""
    told: list[str] = []
    plan = _plan(standing_in, "lost", retries=retries)
    assert run_local(plan, standing_in.parent, told.append)
    write_plan(plan, standing_in / NAME)
    verdict = gather_folder(standing_in)
    assert any("lost after" in line and "-9" in line for line in told)
    assert [node.status for node in verdict.nodes] == ["retried" if retries else "fail"]
    assert not verdict.passed and (Kind.RETRIED in {each.kind for each in verdict.findings}) is bool(retries)


def test_nothing_is_left_when_it_is_interrupted(standing_in: Path):
    """What runs is ended, what waits is not begun, and both are said."""
    told: list[str] = []

    def say(line: str) -> None:
        told.append(line)
        if line.startswith("slow-b"):
            raise KeyboardInterrupt

    begun_s = time.monotonic()
    plan = _plan(standing_in, "slow-a", "slow-b", options={"workers": 2})
    assert run_local(plan, standing_in.parent, say) is False
    assert time.monotonic() - begun_s < 15 and told[-1].startswith("interrupted: 1 running nodes are ended")
    mine = {int(pid) for pid in os.listdir("/proc") if pid.isdecimal() and _parent(pid) == os.getpid()}
    assert not any(b"node.py" in Path(f"/proc/{pid}/cmdline").read_bytes() for pid in mine)


def _parent(pid: str) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def test_a_node_that_takes_too_long_is_lost(standing_in: Path):
    """It is killed, and named."""
    told: list[str] = []
    assert run_local(replace(_plan(standing_in, "slow"), minutes=0), standing_in.parent, told.append)
    assert "slow: lost after 0 s (exit code -9)" in told


def test_a_node_seals_what_its_load_left(tmp_path: Path):
    """In a folder of its own below the node's name; the exit code is the load's."""

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


def test_a_load_that_was_not_begun_says_why(tmp_path: Path):
    """Its node is not missing: it is a refusal, in the node's own words."""

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
    """Profile and flags are those of `load`; here nothing of the stack is installed, which is said and kept."""
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
    """Slurm and Ray say it in CUDA_VISIBLE_DEVICES, of which the pinned stack reads 0 alone."""
    monkeypatch.setattr("loadcheck.fleet.node.read_gpus", lambda: (("GPU-a", "Tesla T4"), ("GPU-b", "Tesla T4")))
    environ = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    pin_visible(environ)
    assert environ.get(PIN) == pinned
    assert ("CUDA_VISIBLE_DEVICES" in environ) is (visible is not None and pinned is None)
    assert environ.get("CUDA_VISIBLE_DEVICES") != "0,1"  # of several it takes the first


def test_what_is_pinned_already_stays_so():
    """`fleet run` has chosen among the visible GPUs: the variable would only be refused."""
    environ = {PIN: "GPU-b", "CUDA_VISIBLE_DEVICES": "1,0"}
    pin_visible(environ)
    assert environ == {PIN: "GPU-b"}


def test_a_pinned_process_sees_one_gpu_whatever_its_libraries_set(monkeypatch: pytest.MonkeyPatch):
    """The driver reads the variable once, as it starts; afterwards it is 0, which the pinned stack can read."""
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
    """NVML takes no notice of any variable: it is asked by UUID."""
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
    """A stand-in for `sky`, which notes what it is asked for, and fails what FAILS names."""
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
        ("launch", ["launch", "launch", "down", "down"], "nothing of it is left running"),
        ("down", ["launch", "launch"], "sky launch"),
    ],
)
def test_an_engine_is_run_by_its_own_command(
    sky: Path, fails: str, given: list[str], last: str, monkeypatch: pytest.MonkeyPatch
):
    """Each unit is started; where one fails, all of them are taken back."""
    monkeypatch.setenv("FAILS", fails)
    told: list[str] = []
    assert launch(_two_units(), sky, told.append)
    assert [line.split()[0] for line in (sky / "given").read_text().splitlines()] == given
    assert told[-1].startswith(last)


def test_what_may_still_cost_money_is_said(sky: Path, monkeypatch: pytest.MonkeyPatch):
    """Interrupted, all is taken back; what cannot be is named, with the command that does it."""
    monkeypatch.setenv("FAILS", "down")
    told: list[str] = []

    def say(line: str) -> None:
        told.append(line)
        if line.startswith("sky launch"):
            raise KeyboardInterrupt

    assert launch(_two_units(), sky, say) is False
    assert [line for line in told if line.startswith("NOT TAKEN BACK")] == [
        f"NOT TAKEN BACK, and it may still cost money: sky down --yes test-{unit}" for unit in ("t4", "l4")
    ]


def test_an_engine_that_is_not_here_is_no_pass(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Exit code 3, and the command is named."""
    monkeypatch.setenv("PATH", str(tmp_path))
    write_plan(_two_units(), tmp_path / NAME)
    assert cli.run(["fleet", "run", str(tmp_path)]) == 3


def test_what_ran_elsewhere_is_no_pass(sky: Path, capsys: pytest.CaptureFixture[str]):
    """Results that are not on this machine are not judged: exit code 1, and how to gather them."""
    write_plan(_two_units(), sky / NAME)
    assert cli.run(["fleet", "run", str(sky), "--json"]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["verdict"] == "skipped" and "fleet gather RESULTS --plan" in err


def _two_units() -> FleetPlan:
    plan = plan_of(["t4-0", "l4-0"], engine="skypilot", results="s3://mine/fleet")
    return replace(plan, nodes=tuple(replace(node, unit=node.node[:2]) for node in plan.nodes))
