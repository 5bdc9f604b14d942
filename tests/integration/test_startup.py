"""What makes a start fast, as far as it runs without a GPU, with stand-ins for vLLM and unsloth."""

import builtins
import gc
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from loadcheck.device import PIN
from loadcheck.errors import BadInput
from loadcheck.stacks.unsloth_vllm import engine, startup, vllm_start
from loadcheck.stacks.unsloth_vllm.adapter_init import AdapterInit


@pytest.fixture(autouse=True)
def unfrozen(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """At first all measures are enabled; no object stays frozen afterwards."""
    monkeypatch.delenv(startup.DISABLE_VARIABLE, raising=False)
    gc.unfreeze()
    yield
    gc.enable()
    gc.unfreeze()


@pytest.mark.parametrize(
    ("left_out", "taken"), [("", True), ("swap", False), ("warm_up,swap", False), ("all", False), ("warm_up", True)]
)
def test_measures_are_disabled_by_name(monkeypatch: pytest.MonkeyPatch, left_out: str, taken: bool):
    """All measures are taken except those that the variable names."""
    monkeypatch.setenv(startup.DISABLE_VARIABLE, left_out)
    assert startup.enabled("swap") is taken


def test_huge_pages_are_asked_for_by_name_alone(monkeypatch: pytest.MonkeyPatch):
    """A measure that may cost time is taken only where it is named, and the user's own tunables are kept."""
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    monkeypatch.delenv(startup.ENABLE_VARIABLE, raising=False)
    assert not startup.enabled("huge_pages") and startup.variables() == {}
    monkeypatch.setenv(startup.ENABLE_VARIABLE, "swap, huge_pages")
    assert startup.variables() == {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.arena_max=1")
    assert startup.variables() == {}
    monkeypatch.delenv("GLIBC_TUNABLES")
    monkeypatch.setenv(startup.DISABLE_VARIABLE, "huge_pages")
    assert not startup.enabled("huge_pages") and startup.variables() == {}


def test_an_unknown_measure_is_refused(monkeypatch: pytest.MonkeyPatch):
    """A misspelt name would disable nothing, so all such names are refused at once, each with a suggestion."""
    monkeypatch.setenv(startup.DISABLE_VARIABLE, "colector,swap,xyz")
    with pytest.raises(BadInput) as refused:
        startup.check_variables()
    refusals = [str(problem) for problem in refused.value.problems]
    assert len(refusals) == 2
    assert "LOADCHECK_START_WITHOUT: 'colector' is not a measure; did you mean collector?" in refusals[0]
    monkeypatch.setenv(startup.DISABLE_VARIABLE, "collector, swap,")
    monkeypatch.setenv(startup.ENABLE_VARIABLE, "huge_pages,swap")
    startup.check_variables()
    monkeypatch.setenv(startup.ENABLE_VARIABLE, "swop")
    with pytest.raises(BadInput, match=r"LOADCHECK_START_WITH: 'swop' is not a measure; did you mean swap\?"):
        startup.check_variables()


def test_the_device_is_not_touched_until_allowed(monkeypatch: pytest.MonkeyPatch):
    """Ahead of its plan the engine imports torch at once, and starts the driver, and what queries it, only when allowed."""
    order: list[str] = []
    looked: Any = SimpleNamespace(wait=lambda: order.append("waits"))
    monkeypatch.setattr(os, "environ", {})
    monkeypatch.setattr(engine, "query_own_gpu_once", lambda: None)
    monkeypatch.setattr(startup, "defer_unused_imports", lambda: order.append("puts off"))
    monkeypatch.setattr(startup, "begin_context", lambda: order.append("context"))
    monkeypatch.setattr(engine, "pin_gpu", lambda: order.append("pins"))

    def imported(name: str, *arguments: Any) -> Any:
        if name not in ("torch", "unsloth"):
            return real(name, *arguments)
        order.append(name)
        if name == "unsloth":
            raise NotImplementedError  # no GPU: `run` reports it
        return ModuleType(name)

    real = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", imported)
    engine.import_ahead(looked)
    assert order == ["puts off", "torch", "waits", "pins", "context", "unsloth"]
    assert gc.isenabled()


def test_nothing_is_imported_for_refused_devices(monkeypatch: pytest.MonkeyPatch):
    """For unusable devices nothing is imported ahead; `run` reports them."""
    monkeypatch.delenv(PIN, raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    engine.import_ahead(threading.Event())
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "1"


def test_imports_run_without_garbage_collection():
    """Imports run with the garbage collector off; afterwards it is on, and the objects are frozen."""
    with startup.paused_collector():
        assert not gc.isenabled()
    assert gc.isenabled() and gc.get_freeze_count() > 0


def test_an_import_that_fails_leaves_the_collector_on():
    """A failed import leaves the collector on."""
    with pytest.raises(ImportError), startup.paused_collector():
        raise ImportError
    assert gc.isenabled()


def test_without_the_measure_the_collector_runs(monkeypatch: pytest.MonkeyPatch):
    """Without the measure the collector is not paused, and nothing is frozen."""
    monkeypatch.setenv(startup.DISABLE_VARIABLE, "collector")
    with startup.paused_collector():
        assert gc.isenabled()
    assert gc.get_freeze_count() == 0


def module_of(name: str, **values: Any) -> ModuleType:
    module = ModuleType(name)
    vars(module).update(values)
    return module


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Stand-ins of the modules that are changed; `order` records imports and calls."""
    order: list[str] = []
    runner_module, registry, zoo = ModuleType("model_runner"), ModuleType("registry"), ModuleType("vllm_utils")

    class Runner:
        def capture_model(self, outcome: str) -> None:
            order.append(f"captured with {gc.get_freeze_count() > 0}")
            if outcome == "fails":
                raise MemoryError

    class GraphRunner:
        def __init__(self, model: Any) -> None:
            self.model = model

        def capture(self, input_ids: list[int], **_: Any) -> None:
            order.append(f"{len(input_ids)}: {runner_module._NUM_WARMUP_ITERS}")

    class Engine:
        def __init__(self, outcome: str) -> None:
            self._initialize_kv_caches()
            order.append(f"scheduler with {gc.isenabled()}")
            if outcome == "fails":
                raise MemoryError

        def _initialize_kv_caches(self) -> None:
            order.append(f"cache with {gc.isenabled()}")

    vars(runner_module).update(GPUModelRunnerBase=Runner, CUDAGraphRunner=GraphRunner, _NUM_WARMUP_ITERS=2)
    engine_module = ModuleType("llm_engine")
    vars(engine_module).update(LLMEngine=Engine)
    vars(registry).update(_run_in_subprocess=lambda work: order.append("subprocess"))
    vars(zoo).update(patch_vllm=lambda: order.append(f"patched with {sys.modules.get('vllm.worker') is None}"))
    settings: list[str] = []
    torch = ModuleType("torch")
    reserved = [100]
    memory = SimpleNamespace(_set_allocator_settings=settings.append)
    vars(torch).update(cuda=SimpleNamespace(memory=memory, memory_reserved=lambda: reserved[0]))

    def give(name: str, module: ModuleType) -> None:
        monkeypatch.setitem(sys.modules, name, module)

    give("unsloth_zoo", ModuleType("unsloth_zoo"))
    give("unsloth_zoo.vllm_utils", zoo)
    loader = ModuleType("loader")
    vars(loader).update(safetensors_weights_iterator=lambda files: iter(()))
    for package in (
        "vllm", "vllm.worker", "vllm.engine", "vllm.model_executor", "vllm.model_executor.models",
        "vllm.model_executor.model_loader", "vllm.core", "vllm.core.block", "vllm.lora",
    ):  # fmt: skip
        give(package, ModuleType(package))
    lora = ModuleType("models")
    vars(lora).update(is_pin_memory_available=lambda: True)
    vars(sys.modules["vllm.lora"]).update(models=lora)
    vars(sys.modules["vllm.model_executor.model_loader"]).update(loader=loader)

    for package in ("transformers", "transformers.models", "transformers.models.auto"):
        give(package, ModuleType(package))
    auto_factory = ModuleType("auto_factory")
    vars(auto_factory).update(_LazyAutoMapping=type("_LazyAutoMapping", (), {"keys": lambda _: []}))
    vars(sys.modules["transformers.models.auto"]).update(auto_factory=auto_factory)

    class Pool:
        def __init__(self, block_size: int, create_block: Any, allocator: Any, pool_size: int) -> None:
            order.append(f"{pool_size} blocks")

    common = ModuleType("common")
    vars(common).update(BlockPool=Pool)
    vars(sys.modules["vllm.core.block"]).update(common=common)
    vars(sys.modules["vllm.engine"]).update(llm_engine=engine_module)
    vars(sys.modules["vllm.worker"]).update(model_runner=runner_module)
    vars(sys.modules["vllm.model_executor.models"]).update(registry=registry)
    give("torch", torch)
    for name in ("VLLM_HOST_IP", "GLOO_SOCKET_IFNAME"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(os, "environ", os.environ.copy())
    return SimpleNamespace(
        order=order,
        runner=runner_module,
        registry=registry,
        settings=settings,
        engine=Engine,
        reserved=reserved,
        pool=Pool,
        lora=lora,
        loader=loader,
    )


def test_vllm_is_patched_after_unsloth(stack: SimpleNamespace):
    """vLLM is patched after unsloth, as earlier imports would keep the unpatched classes."""
    vllm_start.patch()
    assert stack.order[0].startswith("patched")
    assert stack.registry._run_in_subprocess(lambda: "looked at here") == "looked at here"
    assert (os.environ["VLLM_HOST_IP"], os.environ["GLOO_SOCKET_IFNAME"]) == ("127.0.0.1", "lo")
    assert stack.settings[0].startswith(vllm_start.ALLOCATOR + ",pinned_use_cuda_host_register:True,")


def test_the_users_address_is_kept(stack: SimpleNamespace):
    """An address that the user set for vLLM is used."""
    os.environ["VLLM_HOST_IP"] = "10.0.0.7"
    vllm_start.patch()
    assert os.environ["VLLM_HOST_IP"] == "10.0.0.7"


def test_without_measures_vllm_is_unchanged(stack: SimpleNamespace, monkeypatch: pytest.MonkeyPatch):
    """Without measures nothing is set or changed."""
    monkeypatch.setitem(os.environ, startup.DISABLE_VARIABLE, "all")
    vllm_start.patch()
    stack.registry._run_in_subprocess(lambda: None)
    assert stack.order[-1] == "subprocess"
    assert stack.runner._NUM_WARMUP_ITERS == 2 and stack.settings == [] and "VLLM_HOST_IP" not in os.environ
    assert stack.lora.is_pin_memory_available()
    assert stack.loader.safetensors_weights_iterator.__name__ == "<lambda>"


def test_a_load_pins_no_adapter(stack: SimpleNamespace):
    """Adapters that a load activates once are read into ordinary memory."""
    vllm_start.patch()
    assert not stack.lora.is_pin_memory_available()


def test_weights_are_copied_without_torchs_default_device(stack: SimpleNamespace, monkeypatch: pytest.MonkeyPatch):
    """vLLM's iterator makes each tensor while torch functions are not redirected; who takes the tensor has them redirected as before."""
    order: list[str] = []

    class Undirected:
        def __enter__(self) -> None:
            order.append("off")

        def __exit__(self, *_: object) -> None:
            order.append("on")

    def weights(_files: list[str]) -> Iterator[tuple[str, Any]]:
        for name in "ab":
            order.append(f"makes {name}")
            yield name, SimpleNamespace(data_ptr=lambda: 0)

    monkeypatch.setitem(sys.modules, "torch._C", module_of("torch._C", DisableTorchFunction=Undirected))
    stack.loader.safetensors_weights_iterator = weights
    vllm_start.patch()
    for name, _ in stack.loader.safetensors_weights_iterator(["file"]):
        order.append(f"copies {name}")
    assert order == ["off", "makes a", "on", "copies a", "off", "makes b", "on", "copies b", "off", "on"]


def test_tritons_key_is_computed_on_another_thread(monkeypatch: pytest.MonkeyPatch):
    """It is, once the stack is imported; not where the measure is off."""
    threads: list[str] = []
    compiler = module_of("triton.compiler.compiler", triton_key=lambda: threads.append(threading.current_thread().name))
    for name, module in (("triton", ModuleType("triton")), ("triton.compiler", ModuleType("triton.compiler")), (compiler.__name__, compiler)):  # fmt: skip
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setenv(startup.DISABLE_VARIABLE, "triton_key")
    startup.begin_triton_key()
    monkeypatch.delenv(startup.DISABLE_VARIABLE)
    startup.begin_triton_key()
    deadline_s = time.monotonic() + 60
    while not threads and time.monotonic() < deadline_s:
        time.sleep(0.001)
    assert len(threads) == 1 and threads[0] != threading.current_thread().name


def test_after_a_failed_capture_everything_can_be_collected(stack: SimpleNamespace):
    """After a failed capture everything can be collected, as unsloth tries again; after a successful one it stays frozen."""
    vllm_start.patch()
    stack.runner.GPUModelRunnerBase().capture_model("goes well")
    assert stack.order[-1] == "captured with True" and gc.get_freeze_count() > 0
    with pytest.raises(MemoryError):
        stack.runner.GPUModelRunnerBase().capture_model("fails")
    assert gc.get_freeze_count() == 0


def test_the_model_runs_once_before_the_first_graph_of_each_kind(stack: SimpleNamespace):
    """A kind is what Triton compiles separately: 1, multiples of 16, and the rest. Each model has its own."""
    vllm_start.patch()
    model = ModuleType("model")
    for size in (32, 24, 16, 8, 4, 2, 1):
        stack.runner.CUDAGraphRunner(model).capture(input_ids=[0] * size, stream=None)
    assert stack.order[-7:] == ["32: 1", "24: 1", "16: 0", "8: 0", "4: 0", "2: 0", "1: 1"]
    stack.runner.CUDAGraphRunner(ModuleType("another")).capture(input_ids=[0] * 16)
    assert stack.order[-1] == "16: 1"


def test_the_model_runs_again_after_the_graphs_have_grown(stack: SimpleNamespace):
    """The model's memory above that of the graphs is torch's peak, so the largest size runs after each growth."""
    vllm_start.patch()
    model = ModuleType("model")
    for size, reserved in ((32, 100), (24, 110), (16, 110), (8, 120), (4, 120), (2, 115)):
        stack.reserved[0] = reserved
        stack.runner.CUDAGraphRunner(model).capture(input_ids=[0] * size)
    assert stack.order[-6:] == ["32: 1", "24: 1", "16: 0", "8: 1", "4: 0", "2: 0"]


def test_the_schedulers_pool_starts_small(stack: SimpleNamespace):
    """The scheduler's pool starts small, and one that is small is not changed."""
    vllm_start.patch()
    stack.pool(16, None, None, 80_000)
    stack.pool(16, None, allocator=None, pool_size=40)
    assert stack.order[-2:] == ["1024 blocks", "40 blocks"]


def test_a_started_engine_is_frozen(stack: SimpleNamespace):
    """The scheduler's objects are made without the collector, which is on again afterwards, also after a failure."""
    vllm_start.patch()
    stack.engine("stands")
    assert stack.order[-2:] == ["cache with True", "scheduler with False"]
    assert gc.isenabled() and gc.get_freeze_count() > 0
    with pytest.raises(MemoryError):
        stack.engine("fails")
    assert gc.isenabled() and gc.get_freeze_count() == 0


@pytest.mark.parametrize(("cores", "threads"), [(1, 1), (2, 2), (6, 4), (16, 16), (200, 16)])
def test_pages_are_pinned_by_a_power_of_two_of_threads(
    stack: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, cores: int, threads: int
):
    """torch accepts only powers of two as the number of threads."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    vllm_start.pin_in_parallel()
    assert stack.settings[0].endswith(f"pinned_num_register_threads:{threads}")


def test_weights_are_read_ahead_to_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """All weight files are read to the end, and no others."""
    monkeypatch.setattr(startup, "_READ_BYTES", 4)
    (tmp_path / "model.safetensors").write_bytes(b"123456789")
    (tmp_path / "config.json").write_text("{}")
    opened = []
    real = Path.open

    def spy(path: Path, *arguments: Any, **keywords: Any) -> Any:
        opened.append(path.name)
        return real(path, *arguments, **keywords)

    monkeypatch.setattr(Path, "open", spy)
    startup.read_ahead(tmp_path)
    assert opened == ["model.safetensors"]


def test_without_a_driver_no_context_is_made():
    """Without a driver this is silent; the load reports it later in words."""
    code = "from loadcheck.stacks.unsloth_vllm.startup import make_context; make_context()"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_background_failure_prints_nothing(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """A traceback from the background would look like a failed load, although the load goes on."""
    monkeypatch.setattr(threading, "excepthook", lambda _failed: pytest.fail("a thread has failed aloud"))

    def fail() -> None:
        raise OSError("read")

    startup.in_background(fail).join()
    drawn = AdapterInit(0, [(1, 1)])
    monkeypatch.setattr(drawn, "_draw", fail)
    drawn.begin()
    drawn.join()
    assert capfd.readouterr() == ("", "")
