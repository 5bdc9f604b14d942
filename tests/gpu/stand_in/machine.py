"""A simulated machine with two H200: replaces the driver, the engines and gigabytes of weights in the processes of a rehearsal.

Python imports it at startup, in an environment that `environment.py` made. Everything else is what a machine with a GPU runs.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from io import StringIO
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from uuid import UUID

ROOT = Path(__file__).resolve().parents[3]
NAME, CAPABILITY, DRIVER = "NVIDIA H200", (9, 0), "580.159.04"
TOTAL_BYTES, FREE_BYTES = 150_109_880_320, 149_557_477_376
GPUS = tuple(f"GPU-{UUID(int=number)}" for number in (1, 2))
PIN = "LOADCHECK_GPU"
RAM_BYTES, WEIGHTS_S = 64 << 30, 0.5
PAUSE = "STAND_IN_WEIGHTS_S"
"""An environment variable: how long a load stays at its weights, for a test that ends it there."""


# ------------------------------------------------------------------------------------------------------------- driver, NVML


class Driver:
    """The part of libcuda.so.1 that loadcheck calls."""

    def cuInit(self, _flags: int) -> int:  # noqa: N802
        return 0

    def cuDeviceGetCount(self, count: Any) -> int:  # noqa: N802
        return _set(count, len(GPUS))

    def cuDriverGetVersion(self, version: Any) -> int:  # noqa: N802
        return _set(version, 13000)

    def cuDeviceGet(self, _device: Any, _number: int) -> int:  # noqa: N802
        return 0

    def cuDeviceGetName(self, name: Any, _length: int, _device: Any) -> int:  # noqa: N802
        name.value = NAME.encode()
        return 0

    def cuDeviceGetAttribute(self, value: Any, number: int, _device: Any) -> int:  # noqa: N802
        return _set(value, CAPABILITY[number - 75])

    def cuDevicePrimaryCtxRetain(self, _context: Any, _device: Any) -> int:  # noqa: N802
        return 0

    def cuCtxSetCurrent(self, _context: Any) -> int:  # noqa: N802
        return 0

    def cuMemGetInfo_v2(self, free: Any, total: Any) -> int:  # noqa: N802
        return _set(free, FREE_BYTES) + _set(total, TOTAL_BYTES)

    def cuDeviceGetUuid(self, raw: Any, _device: Any) -> int:  # noqa: N802
        raw._obj[:] = UUID((os.environ.get(PIN) or GPUS[0]).removeprefix("GPU-")).bytes
        return 0


def _set(reference: Any, value: int) -> int:
    reference._obj.value = value
    return 0


class Library(ctypes.CDLL):
    """Opens any library but the driver's, which is simulated."""

    def __new__(cls, name: str | None = None, *_arguments: Any, **_named: Any) -> Any:
        return Driver() if name == "libcuda.so.1" else super().__new__(cls)


def nvml() -> ModuleType:
    """The module pynvml, as far as it is used."""
    module = ModuleType("pynvml")
    module.__file__ = "pynvml.py"
    error = type("NVMLError", (Exception,), {})

    def init() -> None:
        if "vllm" in sys.modules:  # if it found a card, vLLM would open its kernel library, which needs the real driver
            raise error

    memory = SimpleNamespace(total=TOTAL_BYTES, free=FREE_BYTES, used=TOTAL_BYTES - FREE_BYTES)
    answers: dict[str, Any] = {
        "nvmlInit": init,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetCount": lambda: len(GPUS),
        "nvmlDeviceGetHandleByIndex": lambda number: GPUS[number],
        "nvmlDeviceGetHandleByUUID": lambda uuid: GPUS[GPUS.index(uuid)],
        "nvmlDeviceGetUUID": lambda handle: handle,
        "nvmlDeviceGetName": lambda _: NAME,
        "nvmlDeviceGetMemoryInfo": lambda _handle, version=None: memory,
        "nvmlMemory_v2": 2,
        "nvmlDeviceGetComputeRunningProcesses": lambda _: [],
        "nvmlDeviceGetCudaComputeCapability": lambda _: CAPABILITY,
        "nvmlSystemGetDriverVersion": lambda: DRIVER,
        "NVMLError": error,
    }
    vars(module).update(answers)
    return module


# -------------------------------------------------------------------------------------------------------------------- patches


def patch_device(module: Any) -> None:
    """The device file exists."""
    module.has_device = lambda: True


def patch_synthetic(module: Any) -> None:
    """Weights with the right header and size, as sparse files."""

    def write(path: Path, tensors: Any) -> None:
        with path.open("wb") as file:
            file.write(module.header(tensors))
            file.truncate(module.file_bytes(tensors))

    module.write_safetensors = write


def patch_package(module: Any) -> None:
    """The stack's environment lacks the small model's package: use the weights that a training on the CPU has made of it."""
    from loadcheck.errors import BadInput

    prepare = module.prepare

    def prepared(plan: Any) -> Path:
        try:
            return Path(prepare(plan))
        except BadInput:
            (found,) = module.weights_dir().glob(module.directory_name(plan.model_name, plan.quantization, "*"))
            return Path(found)

    module.prepare = prepared


def patch_engine(module: Any) -> None:
    """unsloth's engine prints the figures of the formulas. Its weights take a while; its imports take less time if they began ahead."""
    began_ahead = threading.Event()

    def import_ahead(device_free: threading.Event) -> None:
        began_ahead.set()
        device_free.wait()

    def run(plan: Any, _directory: Path, recorder: Any) -> None:
        from importlib.metadata import version

        from loadcheck.logs.events import Imported
        from loadcheck.predict import card_from_device
        from loadcheck.specs.versions import load_versions
        from tests import fake_engine

        if cache := os.environ.get("TRITON_CACHE_DIR"):  # as kernel_compiler.py marks it
            Path(cache).mkdir()
            Path(cache, "loadcheck-0").touch()
        import_s = 0.5 if began_ahead.is_set() else 1.0
        time.sleep(import_s)  # as if it imported: a run that took less time than its events say fails
        versions = {name: version(name) for name in module.PACKAGES}
        recorder.record(Imported(import_s=import_s, versions=versions, cuda=load_versions().version("cuda")))

        card = card_from_device(NAME, ".".join(map(str, CAPABILITY)), TOTAL_BYTES, FREE_BYTES)
        with redirect_stdout(StringIO()) as printed:
            code = fake_engine.load(plan, card, RAM_BYTES)
        for line in printed.getvalue().splitlines(keepends=True):
            if '"event": "imported"' in line:
                continue
            sys.stdout.write(line)
            if "model weights took" in line:
                sys.stdout.flush()
                time.sleep(float(os.environ.get(PAUSE, WEIGHTS_S)))
        if code:
            sys.exit(code)

    module.import_ahead, module.run = import_ahead, run


def patch_judge(module: Any) -> None:
    """A server of another model prints the kept model's log, so its findings are all OK."""
    from dataclasses import replace

    from loadcheck.verdict import Status

    judge_start = module.judge_start

    def judge(log: Path, case: Any) -> Any:
        found = judge_start(log, case)
        if case.config.num_hidden_layers == KEPT_LAYERS:
            return found
        return replace(found, findings=tuple(replace(each, status=Status.OK) for each in found.findings))

    module.judge_start = judge


KEPT_LAYERS = 32


def patch_server(module: Any) -> None:
    """vLLM's server with an engine that has no model."""
    from tests.gpu.stand_in.engine import client

    module.build_async_engine_client = client


PATCHES: dict[str, Callable[[Any], None]] = {
    "loadcheck.device": patch_device,
    "loadcheck.weights.package": patch_package,
    "loadcheck.weights.synthetic": patch_synthetic,
    "loadcheck.stacks.unsloth_vllm.engine": patch_engine,
    "loadcheck.serving.server": patch_judge,
    "vllm.entrypoints.openai.api_server": patch_server,
}


class PatchingFinder(MetaPathFinder):
    """Finds these modules as Python does, and patches each one after its import."""

    def __init__(self) -> None:
        self._pending = dict(PATCHES)

    def find_spec(self, name: str, _path: Any = None, _target: Any = None) -> ModuleSpec | None:
        patch = self._pending.pop(name, None)
        if patch is None:
            return None
        spec = importlib.util.find_spec(name)
        assert spec is not None and spec.loader is not None
        spec.loader = PatchingLoader(spec.loader, patch)
        return spec


class PatchingLoader(Loader):
    """A module's own loader, followed by a patch."""

    def __init__(self, loader: Loader, patch: Callable[[Any], None]) -> None:
        self._loader, self._patch = loader, patch

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        self._patch(module)

    def __getattr__(self, name: str) -> Any:  # runpy asks for the code, inspect for the source
        return getattr(self._loader, name)


def stand_in() -> None:
    setattr(ctypes, "CDLL", Library)  # noqa: B010
    sys.modules["pynvml"] = nvml()
    sys.meta_path.insert(0, PatchingFinder())
    sys.path.append(str(ROOT))


stand_in()
