"""vLLM without unsloth: its defaults, torch's own allocator, its refusals, and its logs."""

import csv
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from loadcheck import cli
from loadcheck.checking import gather
from loadcheck.errors import BadInput
from loadcheck.logs.event import Event
from loadcheck.logs.event_lines import format_event
from loadcheck.logs.events import Answered, Device, Done, Imported, Loaded, Peak, WeightsReady
from loadcheck.plan import make_plan
from loadcheck.predict import Case, Prediction, card_from_table
from loadcheck.predict.fit import fit
from loadcheck.specs.files import changed
from loadcheck.specs.model import find_model
from loadcheck.specs.profile import Profile, load_profile, with_flags
from loadcheck.specs.settings import engine_arguments
from loadcheck.specs.versions import load_versions
from loadcheck.stacks import engine_of, predict, stack_of, stack_of_log
from loadcheck.stacks.plain_vllm import STACK as PLAIN_VLLM
from loadcheck.stacks.plain_vllm import engine
from loadcheck.stacks.plain_vllm.allocator import Allocator, own_segment, tight
from loadcheck.stacks.plain_vllm.engine import arguments
from loadcheck.stacks.plain_vllm.serving import Served, argv
from loadcheck.stacks.recorder import Recorder
from loadcheck.stacks.unsloth_vllm import STACK as UNSLOTH_VLLM
from loadcheck.stacks.unsloth_vllm import device, startup
from loadcheck.stacks.unsloth_vllm import engine as unsloth_engine
from loadcheck.stacks.unsloth_vllm.activation import forward_peak
from loadcheck.stacks.unsloth_vllm.graphs import graph_nodes
from loadcheck.stacks.unsloth_vllm.weights import embedding_rows, head_rows, weights
from loadcheck.units import MIB, to_gib
from loadcheck.verdict import judge
from tests.conftest import ROOT

REFERENCE = load_profile("llama31-8b-instruct-4bit")
GIB_OF_RAM = 2**34
TRACED = (ROOT / "tests" / "traced_profile.tsv").read_text(encoding="utf-8")


def _profile(**settings: Any) -> Profile:
    return with_flags(REFERENCE, {"loader": "vllm", "gpu_memory_utilization": 0.9, **settings})


def _case(gpu: str = "H200", **settings: Any) -> Case:
    profile = _profile(**settings)
    model = find_model(profile.model)
    assert model is not None
    config = model.config_for("nf4" if profile.load_in_4bit else "16bit")
    return Case(config=config, profile=profile, card=card_from_table(gpu), ram_available_bytes=GIB_OF_RAM)


def _predict(gpu: str = "H200", **settings: Any) -> Prediction:
    return predict(_case(gpu, **settings))


# ----------------------------------------------------------------------------------------------------------- public logs


@pytest.mark.parametrize(
    ("model", "in_4bit", "printed_gib"),
    [("qwen2.5-7b-instruct", True, 5.2032), ("llama-3.1-8b-instruct", False, 14.9888)],
)
def test_weights_equal_those_in_public_logs_of_vllm_alone(model: str, in_4bit: bool, printed_gib: float):
    """Weights equal public logs to the digit (vllm #13882 of 2025-02-26, a log of 2025-03-25); 30 MiB of the first are oversized blocks."""
    figures = _predict(model=model, load_in_4bit=in_4bit).figures
    assert figures.weights_bytes is not None and round(to_gib(figures.weights_bytes), 4) == printed_gib


@pytest.mark.parametrize(
    ("model", "in_4bit", "activation_gib", "cpu_blocks"),
    [("qwen2.5-1.5b-instruct", False, 1.40, 9362), ("qwen2.5-7b-instruct", True, 1.42, 4681)],
)
def test_the_peak_of_256_sequences_equals_that_of_public_logs(
    model: str, in_4bit: bool, activation_gib: float, cpu_blocks: int
):
    """4096 tokens, vLLM's default of 256 sequences and its 4 GiB of swap space (vLLM 0.7.2: a log of 2025-03-01, and vllm #13882)."""
    figures = _predict("A10G", model=model, load_in_4bit=in_4bit, max_seq_length=4096).figures
    assert figures.activation_peak_bytes is not None
    assert (round(to_gib(figures.activation_peak_bytes), 2), figures.num_cpu_blocks) == (activation_gib, cpu_blocks)


def test_without_lora_a_forward_pass_equals_a_trace():
    """The forward pass and the tensors outside the layers equal a trace to the byte; without LoRA it has no rows and no buffers."""
    for row in csv.DictReader(TRACED.splitlines(), delimiter="\t"):
        model = find_model(row["model"])
        assert model is not None
        config = changed(
            model.config_for("nf4" if row["quantization"] == "nf4" else "16bit"), {"lora": row["lora"] == "1"}
        )
        assert forward_peak(config, int(row["tokens"]), 9.0).num_bytes == int(row["forward_bytes"]), row
        outside = sum(term.num_bytes for term in weights(config).parts[1:])
        assert outside == int(row["outside_layers_bytes"]), row


# ------------------------------------------------------------------------------------------------------------- allocator


@pytest.mark.parametrize(
    ("asked", "counted"),
    [(100, 512), (1024, 1024), (9 * MIB + 1, 9 * MIB + 512), (25 * MIB, 26 * MIB), (25 * MIB - 512, 25 * MIB - 512), (26 * MIB, 26 * MIB)],
)  # fmt: skip
def test_the_size_of_a_segment(asked: int, counted: int):
    """A segment is whole multiples of 2 MiB; a rest of up to 1 MiB is not split off, a larger one is."""
    assert own_segment(asked) == counted
    assert tight(asked) <= counted


def test_free_blocks_are_reused():
    """The smallest sufficient free block is used; a rest of at most 1 MiB stays with it; freed neighbours merge."""
    allocator = Allocator()
    first, second = (
        allocator.allocate(12 * MIB),
        allocator.allocate(8 * MIB),
    )  # of a segment of 12 MiB, and of one of 20
    third = allocator.allocate(11 * MIB)
    assert (first.num_bytes, second.num_bytes, third.num_bytes) == (12 * MIB, 8 * MIB, 12 * MIB)
    allocator.free(second)
    assert allocator.allocate(19 * MIB).num_bytes == 20 * MIB
    assert allocator.allocated_bytes == 44 * MIB


# -------------------------------------------------------------------------------------------------------------- settings


def test_vllms_defaults():
    """vLLM's defaults: 256 sequences, batches of at least 2048 tokens, a share of the whole card, and chunked prefill above 32768 tokens."""
    figures = _predict().figures
    assert (figures.max_num_seqs, figures.chunked_prefill_tokens, figures.kv_estimate_bytes) == (256, 2048, None)
    assert figures.gpu_memory_utilization_pct == 90
    assert figures.lora_slots_bytes is figures.trainable_params is None
    assert _predict(max_seq_length=4096).figures.chunked_prefill_tokens == 4096
    assert _predict(max_seq_length=65536).figures.chunked_prefill_tokens == 2048
    assert _predict(max_seq_length=65536, chunked_prefill="off").figures.chunked_prefill_tokens == 65536


def test_given_settings_are_used():
    """Given sequences, batch tokens and an 8-bit KV cache are used: the cache has twice the blocks, and fewer sequences lower the peak."""
    usual, given = _predict().figures, _predict(max_num_seqs=64, max_num_batched_tokens=4096).figures
    assert (given.max_num_seqs, given.chunked_prefill_tokens, given.num_cuda_graphs) == (64, 4096, 11)
    assert given.activation_peak_bytes is not None and usual.activation_peak_bytes is not None
    assert given.activation_peak_bytes < usual.activation_peak_bytes / 2
    halved = _predict(float8_kv_cache=True).figures
    assert halved.num_gpu_blocks is not None and usual.num_gpu_blocks is not None
    assert halved.num_gpu_blocks // 2 == usual.num_gpu_blocks


def test_without_lora_no_room_is_kept_for_it():
    """Without LoRA there are no extra vocabulary rows and no LoRA kernels in a graph."""
    case = _case(model="llama-3.1-8b-instruct")
    assert not case.config.lora and case.config.lora_vocabulary is False
    assert embedding_rows(case.config) == head_rows(case.config) == 128256
    assert graph_nodes(changed(case.config, {"lora": True}), 1) - graph_nodes(case.config, 1) == 18 * 32


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"loader": "unsloth", "max_num_seqs": 64}, "max_num_seqs: unsloth does not take it"),
        ({"loader": "unsloth", "dtype": "half"}, "dtype: unsloth does not take it"),
        ({"adapters.r": 8}, "adapters: vllm does not take it"),
        ({"conservativeness": 0.5}, "conservativeness: vllm does not take it"),
        ({"fast_inference": False}, "vLLM alone loads on a GPU"),
    ],
)
def test_a_setting_of_the_other_loader_is_refused(settings: dict[str, Any], words: str):
    """A setting of the other loader is refused, with what to do instead."""
    with pytest.raises(BadInput, match=words):
        with_flags(REFERENCE, {"loader": "vllm", **settings})


@pytest.mark.parametrize(
    ("gpu", "settings", "words"),
    [
        ("T4", {}, "Bfloat16 is only supported"),
        ("H200", {"max_seq_length": 200_000}, "is greater than the derived max_model_len"),
        ("H200", {"max_num_batched_tokens": 256, "max_seq_length": 512}, "max_num_batched_tokens (256) is smaller than max_model_len (512)"),
        ("H200", {"max_num_batched_tokens": 128, "max_seq_length": 128}, "must be greater than or equal to max_num_seqs (256)"),
        ("T4", {"dtype": "half", "load_in_4bit": False}, "CUDA out of memory."),
        ("T4", {"dtype": "half", "max_seq_length": 131072}, "The model's max seq len (131072) is larger"),
        ("P100", {}, ""),
    ],
)  # fmt: skip
def test_failures_are_predicted_in_vllms_own_words(gpu: str, settings: dict[str, Any], words: str):
    """Failures are predicted in vLLM's words, in the order in which the engine meets them."""
    if gpu == "P100":
        with pytest.raises(BadInput, match="below 7.0"):
            card_from_table(gpu)
        return
    assert words in _predict(gpu, **settings).obstacles[0].engine_says


def test_a_dynamic_quant_needs_unsloth():
    """vLLM matches one word of a module's name, not a path, so a dynamic quant needs unsloth."""
    case = _case()
    kept = Case(config=changed(case.config, {"kept_modules": ("layers.1.mlp",)}), profile=case.profile, card=case.card)
    assert [each.engine_says for each in PLAIN_VLLM.model_refusals(kept)] == ["AssertionError"]


def test_prefix_caching_is_off_by_default():
    """Prefix caching is off by default, so a model with a sliding window loads by default, and not with it."""
    case = _case()
    windowed = changed(case.config, {"sliding_window": True})

    def messages(**settings: Any) -> list[str]:
        return [
            each.engine_says
            for each in PLAIN_VLLM.model_refusals(Case(config=windowed, profile=_profile(**settings), card=case.card))
        ]

    assert messages() == [] and "Prefix caching is not supported" in messages(prefix_caching="on")[0]


def test_fit_proposes_settings_of_vllm_alone():
    """fit proposes flags that load with vLLM alone, and none of unsloth's."""
    found = fit(
        PLAIN_VLLM, _case("T4", dtype="half", max_seq_length=4096), "concurrency", frozenset({"max_seq_length"})
    )
    assert len(found.proposals) == 1 and found.proposals[0].profile.loader == "vllm"
    assert {knob.change for knob in found.knobs} >= {"max_num_seqs halved", "no CUDA graphs"}
    assert [rung.keys[0] for rung in PLAIN_VLLM.rungs] == [
        "max_num_seqs",
        "gpu_memory_utilization",
        "max_seq_length",
        "enforce_eager",
    ]


def test_the_engine_gets_the_profiles_settings(tmp_path: Path):
    """The engine gets the profile's settings; unset ones are left to vLLM."""
    usual = arguments(make_plan(_profile(weights="synthetic")), tmp_path)
    assert usual["quantization"] == usual["load_format"] == "bitsandbytes"
    assert usual["enable_chunked_prefill"] is None
    assert usual.keys().isdisjoint({"dtype", "max_num_seqs", "max_num_batched_tokens", "enforce_eager"})
    given = arguments(make_plan(_profile(weights="synthetic", load_in_4bit=False, max_num_seqs=8, chunked_prefill="on",
                                         prefix_caching="on", float8_kv_cache=True, dtype="half", enforce_eager=True)),
                      tmp_path)  # fmt: skip
    assert (given["quantization"], given["load_format"], given["max_num_seqs"]) == (None, "auto", 8)
    assert given["enforce_eager"] is True
    assert given["enable_chunked_prefill"] is given["enable_prefix_caching"] is True
    assert (given["kv_cache_dtype"], given["dtype"]) == ("fp8", "half")


def test_non_default_settings_are_passed_on(tmp_path: Path):
    """Non-default settings are passed under their engine's names, to the class and to the server's command line."""
    assert engine_arguments(_profile()) == {}
    changes: dict[str, Any] = {"enforce_eager": True, "max_num_seqs": 8, "dtype": "half"}
    plan = make_plan(_profile(weights="synthetic", **changes))
    assert engine_arguments(plan.profile) == changes
    assert changes.items() <= arguments(plan, tmp_path).items()
    words = argv(Served(plan, tmp_path, {}, None, "127.0.0.1", 8000))
    assert words[-5:] == ["--enforce-eager", "--max-num-seqs", "8", "--dtype", "half"]


def test_the_engine_records_what_it_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """The engine records one event per stage, with stand-ins for torch and vLLM; the allocator's setting is torch's own."""
    cuda = SimpleNamespace(mem_get_info=lambda: (90, 100), get_device_capability=lambda: (9, 0), get_device_name=lambda: "NVIDIA H200",
                           **dict.fromkeys(("memory_allocated", "memory_reserved", "max_memory_allocated", "max_memory_reserved"), lambda: 5))  # fmt: skip
    output = SimpleNamespace(outputs=[SimpleNamespace(token_ids=[1, 2])], metrics=SimpleNamespace(first_token_time=1.0))
    tokenizer = SimpleNamespace(apply_chat_template=lambda _messages, **_: [7, 8, 9], decode=lambda _ids, **_: "Paris")
    asked: dict[str, Any] = {}

    def llm(**arguments: Any) -> SimpleNamespace:
        asked.update(arguments)
        return SimpleNamespace(get_tokenizer=lambda: tokenizer, generate=lambda *_, **__: [output])

    stand_in = SimpleNamespace(LLM=llm, SamplingParams=lambda **sampling: sampling)
    distributed = SimpleNamespace(init_process_group=None)
    torch = SimpleNamespace(cuda=cuda, version=SimpleNamespace(cuda="12.4"), distributed=distributed)
    for name, module in (("vllm", stand_in), ("torch", torch)):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(unsloth_engine, "version", lambda _package: "1")
    monkeypatch.setattr(device, "_driver_version", lambda: "580")
    monkeypatch.setattr(engine, "leave_process_group", lambda: None)
    monkeypatch.setattr(os, "environ", {"PYTORCH_CUDA_ALLOC_CONF": "x", startup.DISABLE_VARIABLE: "all"})
    events: list[Event] = []
    recorder = SimpleNamespace(record=events.append)
    engine.run(make_plan(_profile(weights="synthetic", max_num_seqs=8)), tmp_path, cast(Recorder, recorder))
    assert [type(event) for event in events] == [Imported, Device, Loaded, Answered, Peak, Done]
    assert cast(Device, events[1]).kernel == os.uname().release
    assert "PYTORCH_CUDA_ALLOC_CONF" not in os.environ
    assert asked["max_num_seqs"] == 8 and asked["model"] == str(tmp_path)
    answer = events[3]
    assert isinstance(answer, Answered)
    shown = (answer.num_prompt_tokens, answer.num_new_tokens, answer.text, answer.adapter_enabled)
    assert shown == (3, 2, "Paris", False)


def test_a_config_without_quantization_is_predicted_in_16_bits(tmp_path: Path):
    """vLLM's quantization at load time is not modelled, and a note says so."""
    path = tmp_path / "config.json"
    data = {"model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
            "vocab_size": 512, "max_position_embeddings": 4096}  # fmt: skip
    path.write_text(json.dumps(data), encoding="utf-8")
    found = PLAIN_VLLM.resolve(_profile(model=str(path)))
    assert found.config.quantization == "16bit" and "is not modelled" in found.notes[0]
    assert PLAIN_VLLM.resolve(_profile(model=str(path), load_in_4bit=False)).notes == ()


def test_predict_takes_the_loader_as_a_flag(capsys: pytest.CaptureFixture[str]):
    """With the loader as a flag, the profile's adapters are dropped, and the first line says so."""
    assert cli.run(["predict", "--gpu", "H200", "--loader", "vllm", "--max-num-seqs", "64", "--float8-kv-cache"]) == 0
    output = capsys.readouterr().out
    assert (
        "no adapters" in output
        and "vLLM alone, 8-bit KV cache, 64 sequences" in output
        and "slots of rank" not in output
    )


# ------------------------------------------------------------------------------------------------------------------ logs

LOG = """\
INFO 11-29 16:00:01 llm_engine.py:234] Initializing a V0 LLM engine (v0.7.2) with config: model='Qwen/Qwen2.5-7B-Instruct', \
dtype=torch.bfloat16, max_seq_len=4096, download_dir=None, load_format=LoadFormat.BITSANDBYTES, tensor_parallel_size=1, quantization=bitsandbytes, \
enforce_eager=False, kv_cache_dtype=auto, enable_prefix_caching=False, compilation_config={"level":0,"cudagraph_capture_sizes":[SIZES],"max_capture_size":256},
INFO 11-29 16:00:02 model_runner.py:1110] Starting to load model Qwen/Qwen2.5-7B-Instruct...
INFO 11-29 16:00:09 model_runner.py:1115] Loading model weights took 5.2032 GB
INFO 11-29 16:00:12 worker.py:267] Memory profiling takes 3.25 seconds
INFO 11-29 16:00:12 worker.py:267] the current vLLM instance can use total_gpu_memory (22.06GiB) x gpu_memory_utilization (0.90) = 19.85GiB
INFO 11-29 16:00:12 worker.py:267] model weights take 5.20GiB; non_torch_memory takes 0.05GiB; PyTorch activation peak memory takes \
1.42GiB; the rest of the memory reserved for KV Cache is 13.18GiB.
INFO 11-29 16:00:12 executor_base.py:110] # CUDA blocks: 15425, # CPU blocks: 4681
INFO 11-29 16:00:12 executor_base.py:115] Maximum concurrency for 4096 tokens per request: 60.25x
INFO 11-29 16:00:13 model_runner.py:1434] Capturing cudagraphs for decoding. This may lead to unexpected consequences
INFO 11-29 16:00:30 model_runner.py:1562] Graph capturing finished in 17 secs, took 0.60 GiB
INFO 11-29 16:00:30 llm_engine.py:431] init engine (profile, create kv cache, warmup model) took 20.71 seconds
""".replace("SIZES", ",".join(str(size) for size in (*range(256, 7, -8), 4, 2, 1)))


def _judged(tmp_path: Path, *changes: tuple[str, str]) -> dict[str, str]:
    """The failing figures, with their reasons."""
    text = LOG
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path = tmp_path / "plain.log"
    path.write_text(text, encoding="utf-8")
    return {finding.figure: finding.why for finding in judge(gather(path)).failures()}


def test_a_log_of_vllm_alone_passes_without_unsloths_lines(tmp_path: Path):
    """The stack is recognized by its lines; weights are predicted, and a note says what is not."""
    path = tmp_path / "plain.log"
    path.write_text(LOG, encoding="utf-8")
    evidence = gather(path)
    assert evidence.stack is PLAIN_VLLM and evidence.profile is None
    verdict = judge(evidence)
    assert not verdict.failures()
    assert any(finding.figure == "weights_gib" and finding.check.value == "model" for finding in verdict.findings)
    assert "only the weights are predicted" in evidence.prediction_note


def test_weights_may_come_from_expandable_segments(tmp_path: Path):
    """With expandable segments no block is larger than its tensor; smaller weights are another model's."""
    smaller = (
        ("5.2032 GB", "5.1742 GB"),
        ("take 5.20GiB", "take 5.17GiB"),
        ("13.18GiB", "13.21GiB"),
        ("15425", "15460"),
        ("60.25x", "60.39x"),
    )
    assert _judged(tmp_path, *smaller) == {}
    assert "weights_gib" in _judged(tmp_path, ("5.2032 GB", "4.9 GB"), ("take 5.20GiB", "take 4.90GiB"))


@pytest.mark.parametrize(
    ("change", "figure"),
    [
        (("15425", "25425"), "num_gpu_blocks"),
        (("13.18GiB", "14.18GiB"), "kv_cache_gib"),
        (("60.25x", "61.25x"), "max_concurrency"),
        (("Memory profiling takes 3.25 seconds", "Memory"), "profile_s"),
    ],
)
def test_the_figures_of_a_log_must_agree(tmp_path: Path, change: tuple[str, str], figure: str):
    """The figures of a log must agree with each other, and a missing line is named."""
    assert figure in _judged(tmp_path, change)


def test_an_8_bit_cache_has_blocks_of_half_the_size(tmp_path: Path):
    """An 8-bit cache is recognized by the engine's line; without that word the same blocks are another model's."""
    blocks = ("15425", "30850"), ("4681", "9362"), ("60.25x", "120.51x")
    assert _judged(tmp_path, ("kv_cache_dtype=auto", "kv_cache_dtype=fp8"), *blocks) == {}
    assert "num_gpu_blocks" in _judged(tmp_path, *blocks)


def test_a_log_with_lora_or_unsloths_lines_is_another_stack(tmp_path: Path):
    """vLLM with LoRA prints other figures, and is not modelled without unsloth."""
    weights = "INFO 11-29 16:00:12 worker.py:267] Memory profiling"
    for line in (
        "INFO 11-29 16:00:10 punica_selector.py:18] Using PunicaWrapperGPU.\n",
        "Unsloth: vLLM's KV Cache can use up to 2.61 GB. Also swap space = 2 GB.\n",
    ):
        path = tmp_path / "other.log"
        path.write_text(LOG.replace(weights, line + weights), encoding="utf-8")
        assert stack_of_log(gather(path).attempt) is UNSLOTH_VLLM


def _run_folder(folder: Path, settings: dict[str, Any]) -> None:
    """A run folder of vLLM alone, as the engine would print it on an A10G."""
    profile = _profile(model="qwen2.5-7b-instruct", max_seq_length=4096, weights="synthetic", **settings)
    card = card_from_table("A10G")
    pins = load_versions()
    events = (
        WeightsReady(source="synthetic"),
        Imported(versions={name: pin.version for name, pin in pins.pins.items()}, cuda=pins.version("cuda")),
        Device(gpu_name="NVIDIA A10G", compute_capability="8.6", device_total_bytes=card.total_bytes,
               device_free_bytes=card.free_bytes, ram_available_bytes=GIB_OF_RAM),
        Loaded(),
        Answered(prompt=profile.generation.prompt, text="x", num_new_tokens=3, adapter_enabled=False, expected=None, found=None),
        Peak(peak_device_bytes=20_740_000_000), Done(),
    )  # fmt: skip
    lines = [format_event(event) + "\n" for event in events]
    folder.mkdir()
    (folder / "load.log").write_text("".join(lines[:3]) + LOG + "".join(lines[3:]), encoding="utf-8")
    record = {"schema": 1, "id": folder.name, "loadcheck": "0.1.0", "commit": None, "profile": msgspec.to_builtins(profile), "machine": {},
              "predicted": {}, "started_at": "2026-11-29T16:00:00+00:00", "outcome": "completed", "exit_code": 0}  # fmt: skip
    (folder / "run.json").write_text(json.dumps(record), encoding="utf-8")


def test_a_run_of_vllm_alone_is_judged_by_its_prediction(tmp_path: Path):
    """Predicted from its own card and settings: the activation within the allocator's rests, the weights to the digit."""
    _run_folder(tmp_path / "run", {})
    evidence = gather(tmp_path / "run")
    assert evidence.predicted is not None and evidence.predicted.num_gpu_blocks is not None
    verdict = judge(evidence)
    assert {finding.figure for finding in verdict.failures()} == set()
    compared = {finding.figure for finding in verdict.findings if finding.check.value == "model"}
    assert {"weights_gib", "activation_peak_gib", "num_gpu_blocks", "cuda_graph_gib", "peak_device_gib"} <= compared


def test_a_run_with_other_settings_than_its_profiles_fails(tmp_path: Path):
    """The engine's line shows settings other than the profile's."""
    _run_folder(tmp_path / "run", {"prefix_caching": "on", "float8_kv_cache": True})
    failed = {finding.figure for finding in judge(gather(tmp_path / "run")).failures()}
    assert {"enable_prefix_caching", "kv_cache_dtype", "num_gpu_blocks"} <= failed


def test_the_profiles_loader_decides_the_stack():
    """One key of the profile decides the stack."""
    assert stack_of(_profile()) is PLAIN_VLLM and stack_of(REFERENCE) is UNSLOTH_VLLM
    assert engine_of(_profile()) == PLAIN_VLLM.engine
