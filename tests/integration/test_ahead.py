"""The engine process that starts before its load is known."""

import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import psutil
import pytest

from loadcheck import weights
from loadcheck.cli import ahead as cli_ahead
from loadcheck.plan import make_plan, plan_to_json
from loadcheck.preparing import GPU_PROFILE
from loadcheck.running import child_environment
from loadcheck.runs.ahead import Ahead, ahead
from loadcheck.runs.child import run_child
from loadcheck.runs.json_file import write_json
from loadcheck.runs.sink import LogSink
from loadcheck.specs.profile import load_profile
from loadcheck.stacks import ahead_engine_of
from loadcheck.stacks.unsloth_vllm import startup
from loadcheck.weights.cache import weights_dir

ROOT = Path(__file__).parents[2]
CODE = """
import sys
from loadcheck.engines import child
child.STEPS["load"] = lambda plan, run_dir, recorder: print("loads", plan.profile.name, repr(sys.stdin.read()), flush=True)
sys.exit(child.main(sys.argv[1:]))
"""


@contextmanager
def started_ahead() -> Iterator[Ahead]:
    env = {**child_environment(), "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}"}
    with ahead([sys.executable, "-c", CODE, "ahead", "tests.ahead_engine", str(os.getpid())], env) as process:
        yield process


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "a run\nof two lines"
    folder.mkdir()
    write_json(folder / "plan.json", plan_to_json(make_plan(load_profile("smollm2-135m-cpu", {}))))
    (folder / "weights.json").write_text('{"directory": "/weights"}')
    return folder


def load_in(process: Ahead, run_dir: Path, tmp_path: Path) -> tuple[str, str]:
    """Load in the process that was started ahead: its outcome, and everything that it printed."""
    sink = LogSink(tmp_path / "load.log")
    end = run_child(process.load(run_dir), sink, lambda _: None, lambda _: None)
    return end.outcome, sink.close().read_text()


def test_it_imports_at_once_but_waits_with_the_device(run_dir: Path, tmp_path: Path):
    """Its early output is in the log once, and its stdin is empty when the load begins."""
    with started_ahead() as process:
        out = process.process.stdout.fileno()
        first = b""
        while not first.endswith(b"\n"):
            first += os.read(out, 100)
        assert select.select([out], [], [], 0.1)[0] == []
        process.allow_device()
        outcome, log = load_in(process, run_dir, tmp_path)
    assert (first, outcome) == (b"imports\n", "completed")
    assert sorted(log.splitlines()) == ["loads smollm2-135m-cpu ''", "reads /weights", "touches the device"]
    assert log.endswith("loads smollm2-135m-cpu ''\n")


def test_without_an_order_it_ends_and_loads_nothing():
    """A refused load ends the process, whatever it is doing."""
    with started_ahead() as process:
        pid = process.process.pid
        process.allow_device()
    assert not psutil.pid_exists(pid)


def test_it_ends_with_its_parent(tmp_path: Path):
    """When its parent ends, it exits and loads nothing, instead of waiting forever."""
    with started_ahead() as process:
        process.allow_device()
        process.process.stdin.close()
        assert process.process.wait(timeout=60) == 0


def test_a_death_before_the_load_is_reported(run_dir: Path, tmp_path: Path):
    """An order after its death is lost, and the load reports how it died."""
    command = [sys.executable, "-c", "print('up', flush=True); raise SystemExit(7)"]
    with ahead(command, dict(os.environ)) as process:
        process.process.wait()
        process.allow_device()
        outcome, log = load_in(process, run_dir, tmp_path)
    assert (outcome, log) == ("failed", "up\n")


# ------------------------------------------------------------------------------------------------------------ the command line


def test_only_unsloths_engine_is_started_ahead(monkeypatch: pytest.MonkeyPatch):
    """unsloth's engine is started if there is a device, also for the default profile; none is for the CPU or for bad input."""
    begun: list[list[str]] = []

    @contextmanager
    def start(command: list[str], env: dict[str, str]) -> Iterator[Any]:
        assert "HF_TOKEN" not in env
        assert env["GLIBC_TUNABLES"] == "glibc.malloc.hugetlb=1"
        begun.append(command[2:-1])
        yield "process"

    monkeypatch.setenv("HF_TOKEN", "hf_secret_of_mine")
    monkeypatch.delenv(startup.DISABLE_VARIABLE, raising=False)
    monkeypatch.setenv(startup.ENABLE_VARIABLE, "huge_pages")
    monkeypatch.setattr(cli_ahead, "ahead", start)
    monkeypatch.setattr(cli_ahead, "has_device", lambda: True)
    for profile, changed in (
        (None, {}), ("smollm2-135m-cpu", {}), ("no such profile", {}), (GPU_PROFILE, {"max_seq_length": -1}),
    ):  # fmt: skip
        with cli_ahead.started_ahead(profile, changed):
            pass
    monkeypatch.setattr(cli_ahead, "has_device", lambda: False)
    with cli_ahead.started_ahead(None, {}) as process:
        assert process is None
    assert begun == [["loadcheck.engines.child", "ahead", "loadcheck.stacks.unsloth_vllm.engine"]]


def test_a_gpu_process_loads_no_cpu_profile(monkeypatch: pytest.MonkeyPatch):
    """A card whose driver does not answer still has device files: the GPU's engine was started, but the default profile is then the CPU's."""
    monkeypatch.delenv(startup.DISABLE_VARIABLE, raising=False)
    process = Ahead(cast("Any", None))
    assert cli_ahead.if_for(process, load_profile(GPU_PROFILE, {})) is process
    assert cli_ahead.if_for(process, load_profile("smollm2-135m-cpu", {})) is None


def test_starting_ahead_can_be_disabled(monkeypatch: pytest.MonkeyPatch):
    """Where it is disabled, the process starts at its step."""
    profile = load_profile(GPU_PROFILE, {})
    monkeypatch.delenv(startup.DISABLE_VARIABLE, raising=False)
    assert ahead_engine_of(profile) == "loadcheck.stacks.unsloth_vllm.engine"
    monkeypatch.setenv(startup.DISABLE_VARIABLE, "ahead")
    assert ahead_engine_of(profile) is None


def test_the_command_reads_ahead_what_a_gpu_will_load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """The command reads ahead weights in our cache for a GPU with device files, but not a CPU's, missing ones, or a folder of the user's."""
    monkeypatch.setenv("LOADCHECK_CACHE", str(tmp_path))
    monkeypatch.delenv(startup.DISABLE_VARIABLE, raising=False)
    read: list[Path] = []
    monkeypatch.setattr(startup, "begin_reading", read.append)
    monkeypatch.setattr(cli_ahead, "has_device", lambda: True)
    own = tmp_path / "own"
    own.mkdir()
    (own / "config.json").write_text("{}")
    synthetic, package = {"weights": "synthetic"}, {"weights": "package"}
    cli_ahead.begin_reading(None, synthetic)
    folder = weights.synthetic.prepare(
        make_plan(load_profile("smollm2-135m-cpu", {"weights": "synthetic"})), weights_dir()
    )
    small = {**synthetic, "model": "smollm2-135m-instruct"}
    for profile, changed in ((None, small), ("smollm2-135m-cpu", synthetic), ("smollm2-135m-cpu", package), ("no such", {}),
                             (None, {"weights": "local", "model": str(own)})):  # fmt: skip
        cli_ahead.begin_reading(profile, changed)
    monkeypatch.setattr(cli_ahead, "has_device", lambda: False)
    cli_ahead.begin_reading(None, small)
    assert read == [folder]
