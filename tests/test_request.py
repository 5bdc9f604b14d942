"""What a log says was loaded, and on which card, against what was requested: one changed word at a time."""

import json
import shutil
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from loadcheck.checking import gather
from loadcheck.errors import BadInput
from loadcheck.logs.event_lines import PREFIX
from loadcheck.specs.gpu import gpu_named, load_gpus, named_card
from loadcheck.verdict import Status, Verdict, judge
from tests.conftest import RUNS, thinned
from tests.judging import judge_text

REPORTED = Path(__file__).parent / "reported"
T4 = (RUNS / "t4_llama31-8b_reference.txt").read_text()
NO_PROFILE = (REPORTED / "09-31-of-32-qkv-no-profile.log").read_text().replace("31 QKV", "32 QKV")


def _figures(verdict: Verdict) -> set[str]:
    return {finding.figure for finding in verdict.failures()}


@pytest.mark.parametrize("text", [T4, NO_PROFILE], ids=["profile", "no profile"])
def test_the_unchanged_logs_pass(text: str, tmp_path: Path):
    """The logs changed below pass unchanged."""
    assert judge_text(tmp_path, text).status == "pass"


@pytest.mark.parametrize("text", [T4, NO_PROFILE], ids=["profile", "no profile"])
@pytest.mark.parametrize(
    ("old", "new", "status", "figure"),
    [
        ("Torch: 2.5.1+cu124", "Torch: 2.5.1+rocm6.2", "fail", "torch"),
        ("Torch: 2.5.1+cu124", "Torch: 2.5.1+cu121", "refused", "torch"),
        ("(v0.7.2)", "(v0.7.2+cu118)", "refused", "vllm"),
        ("(v0.7.2)", "(v0.7.2.dev5+g1234567)", "refused", "vllm"),
        ("(v0.7.2)", "(v0.7.2+cpu)", "fail", "vllm"),
        ("0.0.28.post3", "0.0.28.post3+cu118", "refused", "xformers"),
        ("Triton: 3.1.0", "Triton: 3.1.0+git1", "refused", "triton"),
        ("LoadFormat.BITSANDBYTES", "LoadFormat.DUMMY", "fail", "load_format"),
        ("LoadFormat.BITSANDBYTES", "gguf", "fail", "load_format"),
        ("enforce_eager=False", "enforce_eager=True", "fail", "cuda_graph_gib"),
        ("quantization=bitsandbytes", "quantization=fp8", "fail", "quantization"),
        ("a V0 LLM", "a V1 LLM", "fail", "engine"),
        ("kv_cache_dtype=auto", "kv_cache_dtype=fp8", "fail", "kv_cache_dtype"),
        ("device_config=cuda", "device_config=cpu", "fail", "device_config"),
        ("32 O layers", "31 O layers", "fail", "patched_o"),
        ("32 MLP layers", "0 MLP layers", "fail", "patched_mlp"),
    ],
)
def test_a_changed_word_is_a_finding(text: str, old: str, new: str, status: str, figure: str, tmp_path: Path):
    """A changed word is a finding, for a known profile and without one, and the prediction is still made."""
    assert old in text
    verdict = judge_text(tmp_path, text.replace(old, new))
    assert (verdict.status, figure in _figures(verdict)) == (status, True)
    if figure != "quantization":
        assert any(finding.figure == "weights_gib" and finding.predicted == 5.3541 for finding in verdict.findings)


@pytest.mark.parametrize(
    ("old", "new", "figure"),
    [
        ("'load_in_8bit': False", "'load_in_8bit': True", "load_in_8bit"),
        ("'load_in_4bit': True", "'load_in_4bit': False", "load_in_4bit"),
        ("quant_type': 'nf4'", "quant_type': 'fp4'", "bnb_4bit_quant_type"),
        ("double_quant': True", "double_quant': False", "bnb_4bit_use_double_quant"),
    ],
)
def test_another_kind_of_4_bits_is_a_finding(old: str, new: str, figure: str, tmp_path: Path):
    """fp4 and nf4 take the same bytes, so only the settings passed to vLLM tell them apart."""
    assert _figures(judge_text(tmp_path, T4.replace(old, new))) == {figure}


def test_builds_for_the_pinned_cuda_pass(tmp_path: Path):
    """torch without its suffix, and vLLM built from source for CUDA 12.4, count as the pinned versions."""
    text = T4.replace("2.5.1+cu124", "2.5.1").replace("(v0.7.2)", "(v0.7.2+cu124)")
    assert judge_text(tmp_path, text).status == "pass"


def test_unpatched_layers_pass_with_a_reason(tmp_path: Path):
    """With adapters only on the attention, unsloth prints why it patches no MLP. After that reason a count other than 0 fails."""
    reason = (
        "Not an error, but Unsloth cannot patch MLP layers with our manual autograd engine since either LoRA adapters\n"
    )
    explained = NO_PROFILE.replace("Unsloth 2025.2.5 patched", f"{reason}Unsloth 2025.2.5 patched")
    assert judge_text(tmp_path, explained.replace("32 MLP layers", "0 MLP layers")).status == "pass"
    assert _figures(judge_text(tmp_path, explained)) == {"patched_mlp"}


@pytest.mark.parametrize(
    ("owner", "noted"), [("unsloth", 0), ("meta-llama", 0), ("evil", 1), ("/models", 0), ("./weights", 0)]
)
def test_another_owner_gets_a_note(owner: str, noted: int, tmp_path: Path):
    """A repository of another owner has the same shape, so it gets a note; a local directory has no owner."""
    verdict = judge_text(tmp_path, T4.replace("unsloth/meta-llama", f"{owner}/meta-llama"))
    notes = [finding for finding in verdict.findings if "its owner is none of" in finding.why]
    assert (verdict.status, len(notes)) == ("pass", noted)


# ------------------------------------------------------------------------------------------------------------------ the card


@pytest.mark.parametrize(
    "name", thinned(sorted({name for gpu in load_gpus().values() for name in gpu.names} - {"Tesla T4"}))
)
def test_a_t4s_numbers_fail_under_other_names(name: str, tmp_path: Path):
    """A T4's numbers under the name of any other card of env/gpus.toml fail."""
    verdict = judge_text(tmp_path, T4.replace("Tesla T4", name))
    turing = gpu_named(name)[1].compute_capability == "7.5"  # which differs only in memory
    assert ("gpu_total_gib" if turing else "compute_capability") in _figures(verdict)


@pytest.mark.parametrize(
    ("name", "key", "gib"),
    [
        ("NVIDIA A100-SXM4-80GB MIG 3g.40gb", "A100-80GB", 39.25),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "H100", 9.75),
        ("NVIDIA H200 MIG 1g.18gb", "H200", 16.0),
        ("NVIDIA GeForce RTX 4090", "RTX4090", 23.988),
        ("NVIDIA GeForce RTX 4090", "RTX4090", 47.5),
        ("Tesla T4", "T4", 14.56),
    ],
)
def test_the_memory_of_a_card_is_known(name: str, key: str, gib: float):
    """A MIG slice's memory is the size in its name, and a card's is its own totals, on any system."""
    known = named_card(name)
    assert known is not None and known.key == key
    assert any(low <= gib <= high for low, high in known.gib)


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GH200 144G HBM3e",
        "NVIDIA GeForce RTX 2070",
        "NVIDIA A100-SXM-64GB",
    ],
)
def test_a_similar_card_is_not_in_the_table(name: str):
    """A card that is only similar to one in the table is judged by its own numbers."""
    assert named_card(name) is None


@pytest.mark.parametrize(("name", "status"), [("NVIDIA RTX 6000", "fail"), ("NVIDIA RTX 8000", "pass")])
def test_an_unknown_unsupported_card_fails(name: str, status: str, tmp_path: Path):
    """An unknown card with an unsupported compute capability fails; one like the T4's passes."""
    text = T4.replace("Tesla T4", name)
    assert judge_text(tmp_path, text.replace("7.5", "12.0") if status == "fail" else text).status == status


# ------------------------------------------------------------------------------------------------------------ a run's fields


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return Path(shutil.copytree(REPORTED / "20-run-control", tmp_path / "run"))


def _change_record(run: Path, dotted: str, value: Any) -> None:
    data = json.loads((run / "run.json").read_text())
    *tables, key = dotted.split(".")
    at = data
    for table in tables:
        at = at[table]
    at[key] = value
    (run / "run.json").write_text(json.dumps(data))


def _change_event(run: Path, name: str, field: str, value: Any) -> None:
    lines = (run / "load.log").read_text().splitlines()
    for at, line in enumerate(lines):
        if PREFIX + "{" in line and (event := json.loads(line.partition(PREFIX)[2]))["event"] == name:
            lines[at] = PREFIX + json.dumps(event | {field: value})
    (run / "load.log").write_text("\n".join(lines))


WRONG_VALUES = ["x", None, True, [], -1, 10**30]
EVENT_FIELDS = [
    "answer.num_new_tokens", "answer.event", "device.device_free_bytes", "imported.versions", "adapters.adapter_bytes", "trained.first_loss",
    "step.step", "peak.peak_device_bytes", "loaded.event", "slots.lora_slots_bytes", "answer_after_training.num_new_tokens",
]  # fmt: skip
RECORD_FIELDS = [
    "exit_code", "outcome", "duration_s", "peak_host_bytes", "machine.gpu.total_bytes", "machine.gpu.name", "profile.training.steps",
    "profile.model", "machine.gpu.compute_capability", "profile.max_lora_rank",
]  # fmt: skip


@pytest.mark.parametrize(("value", "dotted"), thinned([*product(WRONG_VALUES, EVENT_FIELDS)]), ids=repr)
def test_a_wrong_value_in_an_event_fails(dotted: str, value: Any, run: Path):
    """Text, null, booleans, lists, negative and huge numbers in an event's field give no pass, and no traceback."""
    name, _, field = dotted.partition(".")
    _change_event(run, name, field, value)
    assert judge(gather(run)).status == "fail"


@pytest.mark.parametrize(
    ("dotted", "value", "figure"),
    [
        ("answer.num_new_tokens", 33, "answer tokens"),
        ("answer_after_training.num_new_tokens", 33, "answer_after_training tokens"),
        ("answer.num_prompt_tokens", 0, "answer tokens"),
        ("adapters.adapter_bytes", 335_544_321, "adapter bytes"),
        ("adapters.adapter_dtype", "torch.float16", "adapter bytes"),
    ],
)
def test_an_impossible_event_fails(dotted: str, value: Any, figure: str, run: Path):
    """More tokens than requested, a prompt of 0 tokens, and adapters whose size does not match their parameters fail."""
    name, _, field = dotted.partition(".")
    _change_event(run, name, field, value)
    assert [finding.figure for finding in judge(gather(run)).failures()] == [figure]


@pytest.mark.parametrize(("dotted", "value"), thinned([*product(RECORD_FIELDS, [*WRONG_VALUES, 137])]), ids=repr)
def test_a_wrong_value_in_the_record_is_no_pass(dotted: str, value: Any, run: Path):
    """A wrong value in run.json is a failure, or bad input on one line, except where null or any number is valid."""
    _change_record(run, dotted, value)
    may = {"duration_s": (None, 137), "peak_host_bytes": (None, 137)}
    try:
        status = judge(gather(run)).status
    except BadInput as error:
        status = f"bad input: {error.problems[0].what}"
    allowed = may.get(dotted, ())
    assert (status == "pass") == any(type(value) is type(each) and value == each for each in allowed)


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999"])
def test_nan_and_infinity_are_refused_in_the_record(number: str, run: Path):
    """NaN and Infinity, which Python's json accepts, make run.json invalid."""
    text = (run / "run.json").read_text()
    (run / "run.json").write_text(text.replace('"duration_s": 134.27', f'"duration_s": {number}'))
    with pytest.raises(BadInput, match="no number of JSON"):
        gather(run)


@pytest.mark.parametrize(
    ("dotted", "value", "figure"),
    [
        ("profile.fast_inference", False, "engine"),
        ("profile.generation.prompt", "Who is there?", "answer"),
        ("profile.training.steps", 4, "training steps"),
        ("profile.training.steps", 0, "training steps"),
        ("profile.weights", "local", "weights source"),
        ("profile.model", "unsloth/Llama-3.2-3B-Instruct", "model"),
        ("machine.gpu.name", "NVIDIA H200", "gpu_name"),
        ("machine.gpu.compute_capability", "8.0", "compute_capability"),
        ("machine.gpu.total_bytes", 150109880320, "gpu_total_gib"),
        ("machine.gpu.free_bytes", 150109880320, "gpu_total_gib"),
    ],
)
def test_a_run_that_differs_from_the_request_fails(dotted: str, value: Any, figure: str, run: Path):
    """A run.json that requests other settings than the log shows fails."""
    _change_record(run, dotted, value)
    verdict = judge(gather(run))
    assert figure in {finding.figure for finding in verdict.findings if finding.status is Status.FAIL}


@pytest.mark.parametrize(
    ("name", "field", "value", "figure"),
    [
        ("answer_after_training", "adapter_enabled", False, "answer_after_training adapters"),
        ("answer", "expected", "Paris", "answer"),
        ("trained", "last_loss", 9.0, "losses"),
        ("step", "loss", None, "losses"),
        ("imported", "versions", {"torch": "2.5.1+cpu"}, "torch"),
        ("imported", "versions", {}, "imported"),
        ("device", "device_total_bytes", 47676284469, "device"),
        ("device", "device_free_bytes", 85017493505, "device"),
    ],
)
def test_an_event_that_contradicts_the_rest_fails(name: str, field: str, value: Any, figure: str, run: Path):
    """A value of the right type that cannot be true fails."""
    _change_event(run, name, field, value)
    assert figure in _figures(judge(gather(run)))


# ------------------------------------------------------------------------------------------------------------------ the rank


@pytest.mark.parametrize(("estimate", "rank"), [("2.45", 64), ("2.14", 128)])
def test_another_rank_is_recognized_by_the_estimate(estimate: str, rank: int, tmp_path: Path):
    """A T4's estimate that matches another rank to the digit is recognized as that rank, even on the reference's card."""
    evidence_path = tmp_path / "load.log"
    evidence_path.write_text(T4.replace("2.61 GB", f"{estimate} GB"))
    evidence = gather(evidence_path)
    assert evidence.profile is not None and evidence.profile.max_lora_rank == rank
    assert judge(evidence).status == "pass"


def test_an_estimate_one_digit_off_fails(tmp_path: Path):
    """2.69 GiB is also rank 16's estimate, so it fails, and the finding suggests the flags."""
    verdict = judge_text(tmp_path, T4.replace("2.61 GB", "2.69 GB"))
    assert _figures(verdict) == {"kv_estimate_gib"}
    assert any("check with --max-lora-rank 16 --lora-r 16" in finding.remedy for finding in verdict.failures())


@pytest.mark.parametrize(
    ("name", "figure"),
    [
        ("Tesla V100-SXM2-32GB", "compute_capability"),
        ("NVIDIA H100 PCIe", "compute_capability"),
        ("NVIDIA L40", "compute_capability"),
        ("NVIDIA GH200 480GB", "compute_capability"),
        ("NVIDIA A40", "compute_capability"),
        ("NVIDIA RTX A6000", "compute_capability"),
        ("NVIDIA RTX 6000 Ada Generation", "compute_capability"),
        ("NVIDIA GeForce RTX 4060 Laptop GPU", "compute_capability"),
        ("Tesla P40", "compute_capability"),
        ("NVIDIA GB200", "compute_capability"),
        ("NVIDIA A30 MIG 1g.6gb", "compute_capability"),
        ("Quadro RTX 5000 24GB", "gpu_total_gib"),
        ("AMD Instinct MI300X", "gpu_name"),
        ("Intel(R) Data Center GPU Max 1100", "gpu_name"),
    ],
)
def test_a_t4s_numbers_fail_for_an_unmeasured_card(name: str, figure: str, tmp_path: Path):
    """A T4's numbers fail under unmeasured names, by the family's compute capability, the memory in the name, or the maker."""
    assert figure in _figures(judge_text(tmp_path, T4.replace("Tesla T4", name)))


@pytest.mark.parametrize("name", ["NVIDIA GeForce RTX 2070", "Quadro RTX 5000", "NVIDIA T4G", "NVIDIA Wonder 1"])
def test_a_card_of_the_same_family_passes(name: str, tmp_path: Path):
    """An unmeasured card of the same family, or an unknown one, is judged by its own numbers and passes."""
    assert judge_text(tmp_path, T4.replace("Tesla T4", name)).status == "pass"


@pytest.mark.parametrize(
    ("was", "now", "figure"),
    [
        ("pipeline_parallel_size=1", "pipeline_parallel_size=2", "pipeline_parallel_size"),
        ("speculative_config=None", "speculative_config=SpeculativeConfig(draft_model='x')", "speculative_config"),
        ("enable_prefix_caching=True", "enable_prefix_caching=False", "enable_prefix_caching"),
        ("compute_dtype': 'float16'", "compute_dtype': 'float32'", "bnb_4bit_compute_dtype"),
        ("quant_storage': 'uint8'", "quant_storage': 'bfloat16'", "bnb_4bit_quant_storage"),
    ],
)
def test_a_setting_that_unsloth_never_uses_is_named(was: str, now: str, figure: str, tmp_path: Path):
    """An engine setting that no load by unsloth has is named."""
    assert was in T4 and _figures(judge_text(tmp_path, T4.replace(was, now))) == {figure}


def test_a_local_build_of_unsloth_is_read(tmp_path: Path):
    """The local suffix of unsloth's version is accepted, and every line is read."""
    verdict = judge_text(tmp_path, T4.replace("Unsloth 2025.2.5", "Unsloth 2025.2.5+local"))
    assert (verdict.status, _figures(verdict)) == ("refused", {"unsloth"})


def test_a_huge_number_in_an_event_is_a_finding(tmp_path: Path):
    """A number larger than any memory is a finding, without a traceback."""
    event = f'loadcheck: {{"event": "device", "device_total_bytes": {"9" * 400}, "device_free_bytes": 1}}'
    assert judge_text(tmp_path, f"{T4}\n{event}\n").status == "fail"
