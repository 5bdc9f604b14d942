from __future__ import annotations

import json
import shutil
import stat
import subprocess
import sys
import time
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace

import pytest

from loadcheck import running
from loadcheck.disk import walked
from loadcheck.engines import child
from loadcheck.plan import make_plan, plan_to_json
from loadcheck.preparing import Prepared, case_here
from loadcheck.specs.files import changed
from loadcheck.specs.profile import load_profile
from loadcheck.stacks import predict
from loadcheck.stacks.transformers_cpu import attaching, memory


class Tensor:
    """The parts of a tensor that counting needs."""

    def __init__(self, address, nbytes, quant_state=None):
        self.address, self.nbytes, self.quant_state = address, nbytes, quant_state

    def data_ptr(self):
        return self.address


NO_TENSORS = (2).to_bytes(8, "little") + b"{}"
"""An empty safetensors file."""


def model(parameters, buffers=()):
    return SimpleNamespace(named_parameters=lambda: parameters.items(), named_buffers=lambda: buffers)


def test_every_tensor_is_counted_once_by_kind():
    """Packed weights include their quantization state, and a tied output layer adds nothing."""
    nested = SimpleNamespace(absmax=Tensor(3, 4), code=Tensor(4, 1024))
    state = SimpleNamespace(absmax=Tensor(2, 8), code=Tensor(5, 64), offset=Tensor(6, 4), state2=nested)
    parameters = {
        "model.embed_tokens.weight": Tensor(10, 1000),
        "lm_head.weight": Tensor(10, 1000),
        "model.layers.0.self_attn.q_proj.weight": Tensor(1, 256, state),
        "model.norm.weight": Tensor(11, 20),
    }
    held = memory.held_bytes(model(parameters, [("model.rotary_emb.inv_freq", Tensor(12, 128))]))
    assert held == {
        "embeddings": 1000, "packed": 256, "absmax": 8, "nested_absmax": 8, "codes": 1088, "norms": 20, "buffers": 128,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("model.layers.0.input_layernorm.weight", "norms"),
        ("model.layers.0.mlp.up_proj.weight", "linears"),
        ("model.layers.0.self_attn.q_proj.bias", "linears"),
        ("lm_head.weight", "embeddings"),
    ],
)
def test_unquantized_parameters_have_a_kind(name, kind):
    """Norms, linears and embeddings are recognized by their names."""
    assert memory.kind_of(name) == kind


def layer(adapted, bias=None):
    def linear(name):
        own = SimpleNamespace(base_layer=SimpleNamespace(bias=bias))
        if name in adapted:
            own.lora_A = {}
        return own

    attention = SimpleNamespace(**{name: linear(name) for name in ("q_proj", "k_proj", "v_proj", "o_proj")})
    mlp = SimpleNamespace(**{name: linear(name) for name in ("gate_proj", "up_proj", "down_proj")})
    return SimpleNamespace(self_attn=attention, mlp=mlp)


ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@pytest.mark.parametrize(
    ("layers", "model_type", "dropout", "counts"),
    [
        ([layer(ALL)] * 2, "llama", 0.0, (2, 2, 2, 2)),
        ([layer(ALL)] * 2, "llama", 0.1, (2, 0, 0, 0)),
        ([layer(("q_proj", "v_proj"))], "llama", 0.0, (1, 0, 0, 0)),
        ([layer(("o_proj",))], "llama", 0.0, (1, 0, 1, 0)),
        ([layer(ALL, bias=1)], "llama", 0.0, (1, 0, 0, 0)),
        ([layer(())], "qwen2", 0.0, (1, 1, 0, 0)),
    ],
)
def test_layers_count_as_patched_as_in_unsloth(layers, model_type, dropout, counts):
    """A block counts as patched if all its linears have an adapter and no bias; with dropout nothing is."""
    assert tuple(attaching.patched_counts(layers, model_type, dropout).values()) == counts


def test_the_peak_is_read_in_bytes():
    """The kernel's kB are 1024 bytes."""
    assert memory.peak_of_status("VmPeak:\t  999 kB\nVmHWM:\t    2 kB\nVmRSS:\t 1 kB\n") == 2048


def write_plan(run_dir, model_dir):
    profile = load_profile("smollm2-135m-cpu")
    plan = make_plan(changed(profile, {"weights": "local"}))
    data = plan_to_json(plan)
    data["profile"]["model"] = str(model_dir)
    (run_dir / "plan.json").write_text(json.dumps(data))


def test_prepare_leaves_the_directory_for_load(tmp_path, capsys):
    """The first step writes the weights' path to a file and records an event."""
    weights = tmp_path / "w"
    weights.mkdir()
    (weights / "config.json").write_text("{}")
    (weights / "model.safetensors").write_bytes(NO_TENSORS)
    write_plan(tmp_path, weights)
    assert child.main(["prepare", str(tmp_path)]) == 0
    assert json.loads((tmp_path / "weights.json").read_text()) == {"directory": str(weights)}
    event = json.loads(capsys.readouterr().out.strip().removeprefix("loadcheck: "))
    assert (event["event"], event["directory"], event["disk_bytes"]) == ("weights_ready", "w", 2 + len(NO_TENSORS))


def test_a_loadcheck_error_has_its_exit_code_and_no_traceback(tmp_path, capsys):
    """A LoadcheckError ends the child with its lines and its exit code."""
    write_plan(tmp_path, tmp_path / "nothing")
    assert child.main(["prepare", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("Error: profile: model: ")
    assert child.main(["load", str(tmp_path)]) == 2
    assert "run the step `prepare` first" in capsys.readouterr().err


def test_an_unforeseen_error_keeps_its_traceback(tmp_path):
    """Any other error keeps its traceback."""
    with pytest.raises(FileNotFoundError):
        child.main(["prepare", str(tmp_path)])


def test_durations_come_from_a_monotonic_clock(tmp_path, capsys, monkeypatch):
    """Durations come from a monotonic clock, and an existing folder counts as cached at any time."""
    directory = tmp_path / "w"
    directory.mkdir()
    (directory / "config.json").write_text("{}")
    (directory / "model.safetensors").write_bytes(NO_TENSORS)
    write_plan(tmp_path, directory)
    times = iter([1e9, 1.0, 1.0])
    monkeypatch.setattr(time, "time", lambda: next(times))
    assert child.main(["prepare", str(tmp_path)]) == 0
    event = json.loads(capsys.readouterr().out.strip().removeprefix("loadcheck: "))
    assert 0 <= event["prepare_s"] < 60
    assert event["cached"] is True


def test_a_cache_that_another_process_changes_can_be_listed(tmp_path):
    """What vanishes while the cache is listed, as another process makes weights there, is left out, and ends no load."""
    for name in ("kept", ".model.partial/inner", ".other.partial"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "kept" / "weights").write_bytes(b"1234")
    listing = walked(tmp_path)
    first = next(listing)
    for partial in tmp_path.glob(".*.partial"):
        shutil.rmtree(partial)
    rest = [first, *listing]
    assert sum(found.st_size for found in rest if stat.S_ISREG(found.st_mode)) == 4
    assert (tmp_path / "kept").stat().st_ino in {found.st_ino for found in rest}


def test_a_run_tells_its_time_by_both_clocks_at_once(tmp_path, monkeypatch):
    """A fleet compares the wall clock's time of a run with its duration: what is done before the load, however slow, is in both."""
    clock = SimpleNamespace(passed_s=0.0)
    begin = datetime(2026, 11, 24, tzinfo=timezone.utc)
    clock.monotonic = lambda: clock.passed_s
    clock.now = lambda _zone: begin + timedelta(seconds=clock.passed_s)
    monkeypatch.setattr(running, "time", clock)
    monkeypatch.setattr(running, "datetime", clock)
    plan = make_plan(load_profile("smollm2-135m-cpu"))
    case = case_here(plan, None, 8 << 30)
    monkeypatch.setattr(running, "_commit", lambda: setattr(clock, "passed_s", 30.0))
    monkeypatch.setattr(running, "_run", lambda folder, *_: folder.log_path)
    _, record, _ = running.run(
        Prepared(plan, None, case, predict(case)), tmp_path / "run", lambda _: None, running.Work()
    )
    passed = datetime.fromisoformat(record.ended_at) - datetime.fromisoformat(record.started_at)
    assert record.duration_s == passed.total_seconds() == 30


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent's end")
def test_a_child_without_its_parent_ends():
    """The child ends if loadcheck was killed before the child could ask to die with it."""
    code = "from loadcheck.engines.child import die_with_parent; die_with_parent(2**22 + 1); print('lives on')"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, start_new_session=True)
    assert (ended.returncode, ended.stdout) == (-9, b"")
