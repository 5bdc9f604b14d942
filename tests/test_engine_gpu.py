"""The GPU engine, as far as it runs without a GPU."""

import builtins
import os
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from loadcheck.device import PIN, pin_for_children
from loadcheck.errors import UnsupportedMachine
from loadcheck.logs.event import Event
from loadcheck.logs.event_lines import find_event, format_event
from loadcheck.logs.events import Answered, AnsweredAfterTraining, Attached, SavedAdapter, Trained
from loadcheck.specs.profile import Profile, load_profile
from loadcheck.stacks import engine_common as shared
from loadcheck.stacks.recorder import Recorder
from loadcheck.stacks.unsloth_vllm import attaching, environment, isolation, session, startup, vllm_model
from loadcheck.stacks.unsloth_vllm import engine as gpu
from loadcheck.stacks.unsloth_vllm.device import record_ram
from loadcheck.stacks.unsloth_vllm.session import Session


def profile(**overrides) -> Profile:
    return load_profile("llama31-8b-instruct-4bit", overrides)


@pytest.mark.parametrize("visible", ["1", "0,1", "GPU-8a1b", ""])
def test_devices_other_than_the_first_are_refused(monkeypatch: pytest.MonkeyPatch, visible: str):
    """Devices that unsloth_zoo 2025.2.4 fails on are refused before any import, with what to do instead."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(UnsupportedMachine, match="CUDA_VISIBLE_DEVICES: unsloth_zoo 2025.2.4 breaks with .*; unset it"):
        environment.check_visible_devices()


@pytest.mark.parametrize("visible", [None, "0"])
def test_first_device_is_accepted(monkeypatch: pytest.MonkeyPatch, visible: str | None):
    """CUDA_VISIBLE_DEVICES may be unset or "0"."""
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    environment.check_visible_devices()


@pytest.mark.parametrize("pinned", ["GPU-b", None])
def test_unsloth_queries_only_its_own_gpu(monkeypatch: pytest.MonkeyPatch, pinned: str | None):
    """unsloth's nvidia-smi query is limited to the load's own GPU; other commands are unchanged."""
    asked: list[object] = []
    monkeypatch.setattr(subprocess, "check_output", lambda command, **options: asked.append((command, options)))
    monkeypatch.delenv(PIN, raising=False)
    if pinned is not None:
        monkeypatch.setenv(PIN, pinned)
    environment.query_own_gpu_only()
    subprocess.check_output("nvidia-smi --query-gpu=memory.used --format=csv", shell=True)
    subprocess.check_output(["true"])
    command = f"nvidia-smi --query-gpu=memory.used --format=csv --id={pinned or 0}"
    assert asked == [(command, {"shell": True}), (["true"], {})]


def test_unsloths_query_can_be_answered_by_nvml(monkeypatch: pytest.MonkeyPatch):
    """NVML answers in nvidia-smi's format, as unsloth reads it; without NVML, and for any other query, nvidia-smi is run."""
    asked: list[object] = []
    used = [5 * 2**30 + 1, None]
    monkeypatch.setattr(subprocess, "check_output", lambda command, **_: asked.append(command))
    monkeypatch.setattr(environment, "device_used_reader", lambda: lambda: used.pop(0))
    monkeypatch.delenv(startup.DISABLE_VARIABLE, raising=False)
    monkeypatch.delenv(PIN, raising=False)
    environment.query_own_gpu_only()
    answer = subprocess.check_output("nvidia-smi --query-gpu=memory.used --format=csv", shell=True)
    assert re.findall(rb"([\d]{1,})[\s]{1,}M", answer) == [b"5120"]  # unsloth/models/_utils.py:963
    subprocess.check_output("nvidia-smi --query-gpu=memory.used --format=csv", shell=True)
    subprocess.check_output("nvidia-smi -L", shell=True)
    assert asked == ["nvidia-smi --query-gpu=memory.used --format=csv --id=0", "nvidia-smi -L --id=0"]


@pytest.mark.parametrize("disabled", ["", "hash"])
def test_adapters_are_recorded_with_their_hash_before_the_answer(monkeypatch: pytest.MonkeyPatch, disabled: str):
    """With the measure adapters are hashed in the background, and the event has the memory from when they were attached."""
    monkeypatch.setenv(startup.DISABLE_VARIABLE, disabled)
    monkeypatch.setattr(attaching, "digest", lambda weights: f"of {weights}")
    events: list[Event] = []
    recorder = cast(Recorder, SimpleNamespace(record=events.append))
    record = attaching.recorded_with_hash(Attached(adapter_bytes=7), ["w"], recorder)
    assert len(events) == (1 if disabled else 0)
    record()
    assert events == [Attached(adapter_bytes=7, adapter_sha256="of ['w']")]


@pytest.mark.parametrize(("pinned", "seen"), [("GPU-b", "1"), ("GPU-a", "0"), (None, None)])
def test_a_servers_children_get_the_pinned_gpus_number(
    monkeypatch: pytest.MonkeyPatch, pinned: str | None, seen: str | None
):
    """A server's children get the pinned GPU's number in bus order, as they start the driver themselves."""
    monkeypatch.setattr("loadcheck.device.read_gpus", lambda: (("GPU-a", "H200"), ("GPU-b", "H200")))
    monkeypatch.delenv(PIN, raising=False)
    if pinned is not None:
        monkeypatch.setenv(PIN, pinned)
    wanted = {} if seen is None else {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": seen}
    assert pin_for_children() == wanted


def test_a_server_on_an_unlisted_gpu_is_refused(monkeypatch: pytest.MonkeyPatch):
    """A GPU that NVML does not list has no number, so the server is refused: 0 would be another GPU."""
    monkeypatch.setattr("loadcheck.device.read_gpus", lambda: (("GPU-a", "H200"),))
    monkeypatch.setenv(PIN, "GPU-c")
    with pytest.raises(UnsupportedMachine, match=r"LOADCHECK_GPU: GPU-c is none of this host's GPUs.*\(GPU-a\)"):
        pin_for_children()


@pytest.mark.parametrize("own", [(8, 9), (7, 5), None])
def test_a_pinned_gpu_needs_the_capability_of_the_first(monkeypatch: pytest.MonkeyPatch, own: tuple[int, int] | None):
    """vLLM uses the capability of the host's first GPU, so a pinned GPU with another one is refused; without NVML's answer, CUDA will check."""

    class Nvml:
        NVMLError = KeyError

        def nvmlInit(self) -> None:  # noqa: N802
            pass

        def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
            return uuid

        def nvmlDeviceGetHandleByIndex(self, index: int) -> str:  # noqa: N802
            return f"number {index}"

        def nvmlDeviceGetCudaComputeCapability(self, handle: str) -> tuple[int, int]:  # noqa: N802
            return {"number 0": (8, 9), **({"GPU-b": own} if own else {})}[handle]

    monkeypatch.setitem(sys.modules, "pynvml", cast(Any, Nvml()))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setenv(PIN, "GPU-b")
    if own != (7, 5):
        environment.check_visible_devices()
        return
    with pytest.raises(UnsupportedMachine, match=r"LOADCHECK_GPU: its compute capability is 7\.5, .* first GPU, 8\.9"):
        environment.check_visible_devices()


def test_the_ram_that_unsloth_finds_is_recorded(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """The RAM that unsloth reads when it decides on the swap space is recorded."""
    utils = SimpleNamespace(psutil=None)
    monkeypatch.setitem(sys.modules, "unsloth_zoo", cast(Any, SimpleNamespace(vllm_utils=utils)))
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=7))
    after: list[str] = []
    record_ram(Recorder(), lambda: after.append("taken"))
    assert capsys.readouterr().out == ""
    assert cast(Any, utils.psutil).virtual_memory().available == 7
    assert '"event": "ram"' in (output := capsys.readouterr().out) and output.endswith('"ram_available_bytes": 7}\n')
    assert after == ["taken"]


def test_environment_keeps_the_load_off_the_network(monkeypatch: pytest.MonkeyPatch):
    """Statistics and downloads are off, and variables that hide the log or change the engine are unset."""
    monkeypatch.setattr(
        os, "environ", {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_PORT": "1", "VLLM_USE_V1": "1", "HF_HUB_OFFLINE": "0"}
    )
    environment.set_environment()
    assert os.environ == environment.ENVIRONMENT
    assert os.environ["HF_HUB_OFFLINE"] == os.environ["UNSLOTH_DISABLE_STATISTICS"] == "1"


def test_unsloth_is_imported_before_what_it_patches(monkeypatch: pytest.MonkeyPatch):
    """unsloth is the first of the stack to be imported, as it patches the others on import."""
    order: list[str] = []

    def imported(name: str, *arguments: Any) -> Any:
        if name.partition(".")[0] not in gpu.PACKAGES:
            return real(name, *arguments)
        order.append(name)
        return SimpleNamespace(
            version=SimpleNamespace(cuda="12.4"), distributed=SimpleNamespace(init_process_group=None)
        )

    real = builtins.__import__
    monkeypatch.setattr(gpu, "version", lambda package: "1.0")
    monkeypatch.setattr(builtins, "__import__", imported)
    monkeypatch.setenv(startup.DISABLE_VARIABLE, "collector")
    gpu.import_stack(cast(Recorder, SimpleNamespace(record=lambda _: None)))
    assert order == ["unsloth", "torch"]


def test_unsloth_runs_no_command_on_import():
    """ldconfig and pip cannot be run while unsloth is imported, and can afterwards."""
    system, code = os.system, None
    with suppress(KeyError), isolation.no_shell():
        code = os.system("exit 3")
        raise KeyError
    assert code == isolation.NO_SHELL
    assert os.system is system


@pytest.mark.parametrize(
    ("asked", "got"),
    [
        (
            {"init_method": "tcp://127.0.0.1:9", "world_size": 1, "rank": 0},
            {"store": "memory", "world_size": 1, "rank": 0},
        ),
        ({"init_method": "tcp://10.0.0.1:9", "world_size": 2}, {"init_method": "tcp://10.0.0.1:9", "world_size": 2}),
        ({"init_method": "file:///x", "world_size": 1}, {"init_method": "file:///x", "world_size": 1}),
        ({"world_size": 1}, {"world_size": 1}),
    ],
)
def test_a_group_of_one_process_opens_no_port(asked: dict, got: dict):
    """A process group of one keeps its store in memory; any other group starts as requested."""
    seen = []
    torch = SimpleNamespace(
        HashStore=lambda: "memory", init_process_group=lambda *words, **named: seen.append((words, named))
    )
    isolation.keep_store_in_process(torch)
    torch.init_process_group("nccl", **asked)
    assert seen == [(("nccl",), got)]


def test_load_gets_an_absolute_directory_under_its_exact_name():
    """unsloth gets an absolute directory, as a relative path would be read as a name on the hub."""
    arguments = gpu.load_arguments(profile(), Path("weights/some-bnb-4bit"))
    assert arguments["model_name"] == str(Path.cwd() / "weights/some-bnb-4bit")
    assert arguments["use_exact_model_name"] is True
    assert (arguments["max_seq_length"], arguments["max_lora_rank"]) == (512, 32)


@pytest.mark.parametrize(
    ("overrides", "passed"),
    [
        ({}, False),
        ({"conservativeness": 0.5}, True),
        ({"conservativeness": 0.5, "fast_inference": False}, False),
    ],
)
def test_conservativeness_is_passed_only_where_vllm_takes_it(overrides: dict, passed: bool):
    """Without vLLM conservativeness is not passed, as it would reach transformers, which does not know it."""
    assert ("conservativeness" in gpu.load_arguments(profile(**overrides), Path("x"))) is passed


@pytest.mark.parametrize(
    ("overrides", "passed"),
    [({}, False), ({"enforce_eager": True}, True), ({"enforce_eager": True, "fast_inference": False}, False)],
)
def test_enforce_eager_is_passed_only_where_vllm_takes_it(overrides: dict, passed: bool):
    """enforce_eager, like conservativeness, is an argument of unsloth_zoo's load_vllm alone."""
    assert gpu.load_arguments(profile(**overrides), Path("x")).get("enforce_eager", False) is passed


class Module:
    """A vLLM module: children, and plain attributes."""

    def __init__(self, *children: "Module", **attributes) -> None:
        self._children = children
        vars(self).update(attributes)

    def modules(self):
        yield self
        for child in self._children:
            yield from child.modules()


def tensor(nbytes: int) -> SimpleNamespace:
    return SimpleNamespace(nbytes=nbytes)


def test_lora_slots_count_each_stacked_buffer_once():
    """Buffers in tuples count one by one, a layer reached twice counts once, and weights and views do not count."""
    qkv = Module(lora_a_stacked=(tensor(1), tensor(2)), lora_b_stacked=(tensor(4),), weight=tensor(1000))
    embedding = Module(embeddings_tensors=tensor(8), lora_a_stacked=tensor(16), lora_a_stacked_2d=tensor(1000))
    assert vllm_model.lora_slots_bytes(Module(qkv, embedding, Module(qkv), lora_b_stacked=None)) == 31


def test_random_weights_need_no_expected_word():
    """The profile's expected word is required of real weights only."""
    found = {weights: shared.expectation(profile(weights=weights), "It is PARIS.") for weights in ("hub", "synthetic")}
    assert found == {"hub": {"expected": "Paris", "found": True}, "synthetic": {"expected": None, "found": None}}


@pytest.mark.parametrize(("number", "result"), [(1.5, 1.5), (float("nan"), None), (float("inf"), None)])
def test_a_loss_that_is_not_finite_is_omitted(number: float, result: float | None):
    """JSON cannot represent NaN, and an event must not be lost for it."""
    assert shared.finite(number) == result


MEMORY = {
    "used_bytes": 5,
    "allocated_bytes": 1,
    "reserved_bytes": 2,
    "peak_allocated_bytes": 3,
    "peak_reserved_bytes": 4,
}


class Weight(SimpleNamespace):
    nbytes, dtype, requires_grad = 8, "torch.float32", True


@pytest.mark.parametrize("fast_inference", [True, False])
def test_a_session_records_what_it_measured(fast_inference: bool, monkeypatch: pytest.MonkeyPatch):
    """A session records adapters, answers and training steps as events that are read back unchanged, with stand-ins for torch, unsloth and vLLM."""
    model = SimpleNamespace(parameters=lambda: [Weight()], get_nb_trainable_parameters=lambda: (9, 99))
    unsloth = SimpleNamespace(FastLanguageModel=SimpleNamespace(
        get_peft_model=lambda model, **_: model, for_training=lambda *_: None))  # fmt: skip
    monkeypatch.setitem(sys.modules, "unsloth", unsloth)
    for module in (attaching, session):
        monkeypatch.setattr(module, "memory_now", lambda: MEMORY)
        monkeypatch.setattr(module, "digest", lambda _: "0" * 64)
    for name, value in (("_lora_request", 1), ("_adapters_on_disk", ({}, {})), ("_adapters_in_memory", ({}, {})), ("_base_weight", None),
                        ("_request", 1)):  # fmt: skip
        monkeypatch.setattr(session, name, lambda *_, value=value: value)
    monkeypatch.setattr(Session, "_generate_with_vllm", lambda *_: session.Generated([5, 6], True, 1.5))
    monkeypatch.setattr(Session, "_generate", lambda *_: [5, 6])
    monkeypatch.setattr(Session, "_steps", lambda _: [2.0, None])
    events: list[Event] = []
    recorder = cast(Recorder, SimpleNamespace(record=events.append))
    tokenizer = SimpleNamespace(apply_chat_template=lambda *_, **__: [7, 8, 9], decode=lambda *_, **__: "Paris.")
    asked = profile(fast_inference=fast_inference)
    attaching.attach(model, asked.adapters, recorder)
    loaded = Session(asked, model, tokenizer, recorder)
    loaded.answer(Answered, 1)
    loaded.train()
    loaded.compare_saved(loaded.answer(AnsweredAfterTraining, 2), 3)
    assert [type(event) for event in events] == [Attached, Answered, Trained, AnsweredAfterTraining, SavedAdapter]
    assert [find_event(format_event(event)) for event in events] == events
    assert f'"first_token_unix_s": {1.5 if fast_inference else "null"}' in format_event(events[1])
