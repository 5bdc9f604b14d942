"""Runs of ours whose log lost an event, or a field of one, that a check looks at: they fail, where the check had nothing to find."""

import json
import shutil
from pathlib import Path

import pytest

from loadcheck.checking import gather
from loadcheck.logs.event_lines import PREFIX
from loadcheck.logs.events import Done, SavedAdapter
from loadcheck.training import judge_training_folder
from loadcheck.verdict import Verdict, judge
from tests.conftest import ROOT, RUNS, thinned

LOAD = RUNS / "h200" / "reference-train3"
ON_GPU, ON_CPU = ROOT / "tests" / "training" / "h200-packed", ROOT / "tests" / "training" / "run"
FIELDS = (
    (LOAD, "weights_ready", "source"),
    (LOAD, "imported", "versions"),
    (LOAD, "imported", "cuda"),
    (LOAD, "device", "gpu_name"),
    (LOAD, "device", "device_total_bytes"),
    (LOAD, "device", "device_free_bytes"),
    (LOAD, "adapters", "trainable_params"),
    (LOAD, "adapters", "total_params"),
    (LOAD, "adapters", "adapter_bytes"),
    (LOAD, "slots", "lora_slots_bytes"),
    (LOAD, "answer", "adapter_enabled"),
    (LOAD, "answer_after_training", "adapter_enabled"),
    (LOAD, "peak", "peak_device_bytes"),
    (ON_GPU, "imported", "versions"),
    (ON_GPU, "device", "compute_capability"),
    (ON_GPU, "device", "device_free_bytes"),
    (ON_GPU, "adapters", "adapter_bytes"),
    (ON_GPU, "train_begin", "train_peak_allocated_bytes"),
    (ON_GPU, "train_begin", "train_device_used_bytes"),
    (ON_GPU, "train_peak", "train_peak_host_bytes"),
    *(
        (ON_CPU, "started", each)
        for each in ("versions", "model", "quantization", "max_model_len", "torch", "transformers")
    ),
    (ON_CPU, "weights", "weights_bytes"),
    *(
        (ON_CPU, "adapters", each)
        for each in ("adapter_bytes", "patched_layers", "patched_qkv", "patched_o", "patched_mlp")
    ),
    (ON_CPU, "train_peak", "train_peak_host_bytes"),
)
EVENTS = (
    *(
        (LOAD, each)
        for each in (
            "weights_ready",
            "imported",
            "device",
            "loaded",
            "adapters",
            "slots",
            "saved_adapter",
            "peak",
            "done",
            "answer",
            "trained",
            "answer_after_training",
        )
    ),
    *((ON_GPU, each) for each in ("weights_ready", "imported", "device", "loaded", "adapters", "train_peak", "done")),
    *((ON_CPU, each) for each in ("weights_ready", "started", "weights", "adapters", "train_peak", "done")),
)


def _without(run: Path, name: str, field: str, folder: Path) -> Verdict:
    """The verdict on a copy of the run whose event of this name lacks a field; without a field's name, the whole event."""
    shutil.copytree(run, folder)
    lines = []
    for line in (run / "load.log").read_text(encoding="utf-8").splitlines(keepends=True):
        data = json.loads(line.removeprefix(PREFIX)) if line.startswith(PREFIX) else {}
        if data.get("event") != name:
            lines.append(line)
        elif field:
            del data[field]
            lines.append(f"{PREFIX}{json.dumps(data)}\n")
    (folder / "load.log").write_text("".join(lines), encoding="utf-8")
    return judge(gather(folder)) if run == LOAD else judge_training_folder(folder).verdict


@pytest.mark.parametrize(("run", "name", "field"), thinned(FIELDS))
def test_a_field_that_a_check_needs_fails_as_not_in_the_log(run: Path, name: str, field: str, tmp_path: Path):
    """Without the field there is nothing to compare, which is no pass; the failure names it."""
    why = [each.why for each in _without(run, name, field, tmp_path / "run").failures() if each.figure == name]
    assert f"{field} of the engine's event {name}: not in log" in why


@pytest.mark.parametrize(("run", "name"), thinned(EVENTS))
def test_an_event_of_a_finished_run_must_be_there(run: Path, name: str, tmp_path: Path):
    """A load or a training that ended by itself printed each of its events."""
    assert name in {each.figure for each in _without(run, name, "", tmp_path / "run").failures()}


@pytest.mark.parametrize("run", [LOAD, ON_GPU, ON_CPU])
def test_the_whole_run_passes(run: Path, tmp_path: Path):
    """With all of its events and fields each of these runs passes."""
    assert _without(run, "no event", "", tmp_path / "run").passed


def test_an_event_that_a_version_did_not_write_yet_is_not_missed():
    """The first runs on an H100 are older than `saved_adapter` and `done`, as their answers lack a field of the same version."""
    run = RUNS / "h100" / "reference-train3"
    evidence = gather(run)
    assert evidence.attempt.last(SavedAdapter) is None and evidence.attempt.last(Done) is None
    assert judge(evidence).passed


def test_a_load_without_training_saves_no_adapters():
    """`saved_adapter` is only of a load that trained its adapters in vLLM; each load has `done`."""
    evidence = gather(RUNS / "h200" / "15-sequences")
    assert evidence.attempt.last(SavedAdapter) is None
    assert judge(evidence).passed
