"""When the process that compiles kernels is started, waited for and ended, with a stand-in for it."""

import threading
import time
from pathlib import Path

import psutil
import pytest

from loadcheck.plan import make_plan
from loadcheck.specs.profile import load_profile
from loadcheck.stacks.unsloth_vllm import kernel_compiler, startup
from loadcheck.stacks.unsloth_vllm.kernel_compiler import KernelCompiler, Sizes

CONFIG = make_plan(load_profile("llama31-8b-instruct-4bit", {})).config


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> KernelCompiler:
    """A compiler for a card of 9.0 with an empty cache."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(kernel_compiler, "device_capability", lambda: 90)
    monkeypatch.setattr(kernel_compiler, "MODULE", "this")
    pinned = threading.Event()
    pinned.set()
    return KernelCompiler(CONFIG, 32, pinned)


def test_the_process_knows_the_sizes_and_sees_no_device(
    monkeypatch: pytest.MonkeyPatch, compiler: KernelCompiler, tmp_path: Path
):
    """The process gets the sizes, sees no device, and is waited for."""
    (tmp_path / "this.py").write_text(
        "import os, sys; open('said', 'w').write(os.environ['CUDA_VISIBLE_DEVICES'] + sys.argv[1])"
    )
    monkeypatch.chdir(tmp_path)
    compiler.start()
    compiler.finish()
    assert Sizes.from_json((tmp_path / "said").read_text()).to_json() == Sizes.of(CONFIG, 32, 90).to_json()


def test_compiled_kernels_are_not_compiled_again(compiler: KernelCompiler):
    """A marker in Triton's own cache prevents compiling again; another rank has another marker."""
    sizes = Sizes.of(CONFIG, 32, 90)
    assert sizes.marker != Sizes.of(CONFIG, 16, 90).marker
    sizes.marker.touch()
    compiler.start()
    compiler.finish()
    assert compiler._process is None


def test_a_process_that_takes_too_long_is_ended(
    monkeypatch: pytest.MonkeyPatch, compiler: KernelCompiler, tmp_path: Path
):
    """Its memory would count as unavailable, so it is ended, and the load compiles for itself."""
    (tmp_path / "this.py").write_text("import time; time.sleep(60)")
    monkeypatch.chdir(tmp_path)
    compiler.start()
    deadline_s = time.monotonic() + 60
    while compiler._process is None and time.monotonic() < deadline_s:
        time.sleep(0.01)
    compiler.finish(timeout_s=0.1)
    assert compiler._process is not None and not psutil.pid_exists(compiler._process.pid)


def test_a_process_that_was_not_started_in_time_is_not_started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """One that the driver's start delayed does not begin while the available RAM is read."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(kernel_compiler, "device_capability", lambda: 90)
    pinned = threading.Event()
    compiler = KernelCompiler(CONFIG, 32, pinned)
    compiler.start()
    compiler.finish(timeout_s=0.01)
    pinned.set()
    compiler.join(60)
    assert compiler._process is None and not compiler.is_alive()


def test_the_driver_is_not_started_before_the_gpu_is_chosen(monkeypatch: pytest.MonkeyPatch):
    """A driver started earlier sees the host's first GPU, whichever is pinned."""
    asked = threading.Event()
    monkeypatch.setattr(kernel_compiler, "device_capability", asked.set)
    pinned = threading.Event()
    compiler = KernelCompiler(CONFIG, 32, pinned)
    compiler.start()
    assert not asked.wait(0.1)
    pinned.set()
    assert asked.wait(60)
    compiler.finish()


def test_without_a_driver_nothing_is_started(monkeypatch: pytest.MonkeyPatch):
    """Without a driver there is no card to compile for, and the load reports it."""

    def missing(_name: str) -> None:
        raise OSError("libcuda.so.1: cannot open shared object file")

    monkeypatch.setattr("ctypes.CDLL", missing)
    assert kernel_compiler.device_capability() is None


def test_compiling_ahead_can_be_disabled(monkeypatch: pytest.MonkeyPatch):
    """Where it is disabled, nothing is started."""
    monkeypatch.setenv(startup.DISABLE_VARIABLE, "kernels")
    assert startup.begin_kernels(CONFIG, 8) is None
