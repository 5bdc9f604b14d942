"""Troubles from the field: figures in a finding taken from the engine's own words, and which of two troubles is reported."""

from pathlib import Path
from string import Formatter

import pytest

from loadcheck.checking import gather
from loadcheck.errors import BadInput
from loadcheck.specs.files import validate
from loadcheck.specs.trouble import Troubles
from loadcheck.stacks import parse_log
from loadcheck.verdict import judge
from loadcheck.verdict.advice import figures_of, remedy_for
from loadcheck.verdict.diagnosis import sightings
from tests.conftest import ROOT
from tests.diagnoses import TROUBLES, diagnoses, trouble_entry


def _after_weights(t4_log: Path, tmp_path: Path, lines: str) -> Path:
    """A load that got as far as its weights, and then printed these lines."""
    log = tmp_path / "load.log"
    log.write_text(t4_log.read_text().split("Memory profiling takes")[0] + "\n" + lines + "\n")
    return log


FREE = "ValueError: Free memory on device{device} ({free}/{total} GiB) on startup is less than desired GPU memory utilization (0.9, 21.6 GiB)."


@pytest.mark.parametrize(
    ("device", "free", "total", "at_most"),
    [
        (" cuda:0", "10.00", "24.00", "0.41"),
        (" cuda:1", "77.5", "79.1", "0.97"),
        ("", "3.22", "4.0", "0.80"),
        (" cuda:0", "12", "24", "0.50"),
        (" cuda:0", "0.1", "79.1", "0.00"),
    ],
)
def test_the_remedy_names_the_largest_utilization(
    device: str, free: str, total: str, at_most: str, t4_log: Path, tmp_path: Path
):
    """If the utilization exceeds the free memory, the remedy is free / total, rounded down, as rounded up would not fit."""
    log = _after_weights(t4_log, tmp_path, FREE.format(device=device, free=free, total=total))
    assert f"at most {at_most} here" in diagnoses(log)["utilization-above-free"].remedy


@pytest.mark.parametrize(
    ("line", "trouble_id", "says"),
    [
        ("Error in memory profiling. Initial free memory 8.00 GiB, current free memory 12.00 GiB", "memory-freed-meanwhile", "4.00 GiB"),
        ("Error in memory profiling. Initial free memory 8589934592, current free memory 12884901888.", "memory-freed-meanwhile", "4.00 GiB"),
        ("Error in memory profiling. Initial used memory 12884901888, currently used memory 8589934592.", "memory-freed-meanwhile", "4.00 GiB"),
        ("To serve at least one request with the models's max seq len (131072), (16.00 GiB KV cache is needed, which is larger than "
         "the available KV cache memory (0.71 GiB). Based on the available memory, the estimated maximum model length is 5632. Try",
         "kv-too-small", "5632 tokens fit"),
        ("To serve at least one request with the model's max seq len (4096), 2.0 GiB KV cache is needed", "kv-too-small", "raise"),
        ("The model's max seq len (131072) is larger than the maximum number of tokens that can be stored in KV cache (81536). Try",
         "kv-too-small", "81536 tokens fit"),
        ("ValueError: invalid literal for int() with base 10: 'MIG-1234'", "visible-devices-uuid", "a MIG UUID"),
        ("ValueError: invalid literal for int() with base 10: 'GPU-1234'", "visible-devices-uuid", "a GPU UUID"),
        ("Memory profiling results: total_gpu_memory=79.10GiB initial_memory_usage=68.20GiB peak_torch_memory=3.10GiB",
         "gpu-in-use", "68.20 of the card's 79.10 GiB were in use"),
        ("User-specified max_model_len (9000) is greater than the derived max_model_len (max_position_embeddings=8192 or",
         "length-above-positions", "8192 positions"),
        ("RuntimeError: unable to mmap 4976698672 bytes: Cannot allocate memory (12)", "host-memory", "limit"),
        ("/usr/bin/ld: cannot find -l:libcuda.so.1", "libcuda-link", "libcuda.so"),
        ("Error 804: forward compatibility was attempted on non supported HW", "forward-compatibility", "driver"),
    ],
)  # fmt: skip
def test_a_remedy_uses_the_lines_figures(line: str, trouble_id: str, says: str, t4_log: Path, tmp_path: Path):
    """What the line's own numbers allow is suggested before the general remedy."""
    found = diagnoses(_after_weights(t4_log, tmp_path, "RuntimeError: " + line))
    assert list(found) == [trouble_id]
    assert says in found[trouble_id].remedy and found[trouble_id].remedy.endswith(TROUBLES[trouble_id].remedy)


FRAME = 'Traceback (most recent call last):\n  File "/x/{file}", line 1, in {name}\n    x\n'
OOM = "torch.OutOfMemoryError: Allocation on device 0 would exceed allowed memory. (out of memory)"


@pytest.mark.parametrize(
    ("lines", "trouble_id"),
    [
        (OOM, "oom-unknown"),
        ("torch.OutOfMemoryError: Allocation on device", "oom-unknown"),
        ("RuntimeError: Triton Error [CUDA]: out of memory", "oom-unknown"),
        ("***** Running training *****\n  Num examples = 7,473\n  Num Epochs = 1\n" + OOM, "oom-training"),
        ("{'loss': 0.0, 'grad_norm': 0.9, 'learning_rate': 5e-06, 'epoch': 0.01}\n" + OOM, "oom-training"),
        (FRAME.format(file="unsloth_zoo/rl_replacements.py", name="grpo_compute_loss_slow") + OOM, "oom-grpo"),
        (FRAME.format(file="vllm/v1/worker/gpu_model_runner.py", name="_allocate_kv_cache_tensors") + OOM, "oom-after-profile"),
        ("RuntimeError: Unexpected error from cudaGetDeviceCount(). Error 101: invalid device ordinal", "visible-devices"),
        ("nvidia-container-cli: device error: GPU-0: unknown device: unknown.", "visible-devices"),
        ("RuntimeError: Unexpected error from cudaGetDeviceCount(). Error 3: initialization error", "forked-after-cuda"),
        ("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.", "no-gpu"),
        ("docker: Error response from daemon: unknown or invalid runtime name: nvidia.", "no-gpu"),
        ("Error: setting up CDI devices: unresolvable CDI devices nvidia.com/gpu=all", "no-gpu"),
        ("/usr/bin/ld.gold: error: cannot find -lcuda", "libcuda-link"),
        ("ld.lld: error: unable to find library -lcuda", "libcuda-link"),
        ("mold: fatal: library not found: cuda", "libcuda-link"),
        ("FileNotFoundError: [Errno 2] No such file or directory: 'gcc'", "no-compiler"),
        ("torch._inductor.exc.InvalidCxxCompiler: No working C++ compiler found in torch._inductor.config.cpp.cxx", "no-compiler"),
        ("/usr/include/python3.11/Python.h:12:10: fatal error: limits.h: No such file or directory", "no-compiler"),
        ("huggingface_hub.errors.HFValidationError: Repo id must use alphanumeric chars or '-', '_', '.'", "hub-name"),
        ("huggingface_hub.errors.LocalEntryNotFoundError: Cannot find an appropriate cached snapshot folder", "hub-offline"),
        ("OSError: [Errno 30] Read-only file system: '/root/.cache/vllm'", "cache-not-writable"),
        ("Unable to determine the device handle for GPU0000:01:00.0: Unknown Error", "gpu-lost"),
        ("ptxas fatal   : Value 'sm_120' is not defined for option 'gpu-name'", "gpu-too-new"),
    ],
)  # fmt: skip
def test_one_trouble_is_known_by_all_its_wordings(lines: str, trouble_id: str, tmp_path: Path):
    """What other linkers, runtimes, releases and frames print of a trouble names it, even where nothing else was kept."""
    log = tmp_path / "load.log"
    log.write_text(lines + "\n")
    assert list(diagnoses(log)) == [trouble_id]


@pytest.mark.parametrize("prefix", ["(EngineCore pid=1) ERROR 01-01 00:00:00 [core.py:1] ", "vllm-1  | ", "[rank0]: ",
                                    "2025-02-13T10:00:00.000000000Z stderr F "])  # fmt: skip
def test_words_are_found_below_any_prefix(prefix: str, t4_log: Path, tmp_path: Path):
    """A line's words and figures are read behind any prefix."""
    log = _after_weights(t4_log, tmp_path, prefix + FREE.format(device=" cuda:0", free="10.00", total="24.00"))
    assert "at most 0.41 here" in diagnoses(log)["utilization-above-free"].remedy


def test_a_cuda_context_is_no_other_process(t4_log: Path, tmp_path: Path):
    """A few hundred MiB in use before the load are its own context, and no cause of a failure."""
    profile = (
        "Memory profiling results: total_gpu_memory=79.10GiB initial_memory_usage=0.60GiB peak_torch_memory=3.10GiB"
    )
    assert "gpu-in-use" not in diagnoses(_after_weights(t4_log, tmp_path, profile + "\nOverflowError: another"))


def test_without_freed_memory_the_remedy_has_no_figure():
    """If both measurements are equal, the remedy has no figure."""
    trouble = TROUBLES["memory-freed-meanwhile"]
    figures = figures_of(trouble, {"used_before": "1073741824", "used_after": "1073741824"})
    assert figures is not None and remedy_for(trouble, figures) == trouble.remedy


def test_a_dropped_prompt_is_no_pass(t4_log: Path, tmp_path: Path):
    """A complete load whose prompts were too long fails with the lengths and the fix; without that line it passes."""
    log = tmp_path / t4_log.name
    warning = "WARNING 02-13 18:00:00 scheduler.py:949] Input prompt (2611 tokens) is too long and exceeds limit of 512"
    log.write_text(t4_log.read_text() + "\n" + warning + "\n")
    verdict = judge(gather(log))
    assert verdict.status == "fail" and judge(gather(t4_log)).status == "pass"
    finding = diagnoses(log)["prompt-too-long"]
    assert "a prompt had 2611 tokens, and the limit is 512" in finding.remedy and "truncate" in finding.remedy


def test_a_budget_below_the_weights_does_not_suggest_a_length():
    """If nothing is left for the KV cache, a lower max_seq_length is not suggested."""
    found = diagnoses(ROOT / "tests" / "troubles" / "budget-below-weights.txt")
    assert list(found) == ["budget-below-weights"]
    assert "raise gpu_memory_utilization" in found["budget-below-weights"].remedy
    assert "lower max_seq_length" not in found["budget-below-weights"].remedy


@pytest.mark.parametrize(
    ("lines", "only"),
    [
        ("UserWarning: Error 804: forward compatibility was attempted on non supported HW\n"
         "NotImplementedError: Unsloth: No NVIDIA GPU found?", "forward-compatibility"),
        ("OSError: [Errno 28] No space left on device: '/dev/shm/psm_1'", "shared-memory"),
        ("NCCL WARN Error while creating shared memory segment /dev/shm/nccl-x (size 9637888)\nRuntimeError: NCCL error: unhandled system "
         "error", "shared-memory"),
        ("OSError: [Errno 28] No space left on device: '/root/.cache/x'", "disk-full"),
        ("ValueError: invalid literal for int() with base 10: 'MIG-1'\nValueError: Model architectures ['X'] failed to be inspected.",
         "visible-devices-uuid"),
    ],
)  # fmt: skip
def test_the_specific_trouble_wins(lines: str, only: str, t4_log: Path, tmp_path: Path):
    """A specific trouble hides the general one that comes with it."""
    assert list(diagnoses(_after_weights(t4_log, tmp_path, lines))) == [only]


def test_the_gpus_out_of_memory_is_not_the_machines(t4_log: Path, tmp_path: Path):
    """Python's MemoryError is the machine's; torch's OutOfMemoryError, whose name contains it, is the GPU's."""
    log = _after_weights(
        t4_log, tmp_path, "torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 1002.00 MiB."
    )
    assert "host-memory" not in diagnoses(log)


def test_a_patch_that_is_only_skipped_is_no_cause(t4_log: Path, tmp_path: Path):
    """Later unsloth_zoo skips the forward function of a class that this transformers lacks, and goes on."""
    log = _after_weights(
        t4_log, tmp_path, "Unsloth: Failed to patch SmolVLMForConditionalGeneration forward function.\nOverflowError: x"
    )
    assert list(diagnoses(log)) == ["unknown"]


@pytest.mark.parametrize("trouble_id", [trouble.id for trouble in TROUBLES.values() if trouble.advice])
def test_a_remedys_fields_come_from_its_words(trouble_id: str):
    """Each field of a remedy is in an excerpt's words, or follows from them."""
    trouble = TROUBLES[trouble_id]
    fields = {name for _, name, _, _ in Formatter().parse(trouble.advice) if name}
    excerpts = (ROOT / "tests" / "troubles").glob(f"{trouble_id}*.txt")
    found = [
        sighting.figures
        for excerpt in excerpts
        for sighting in sightings(parse_log(excerpt))
        if sighting.trouble == trouble
    ]
    assert any(fields <= figures.keys() for figures in found)


def test_no_remedy_recommends_volta():
    """Compute capability 7.0 loads, and then fails at the first cached prompt: no remedy suggests it."""
    assert [each.id for each in TROUBLES.values() if "7.0 to" in each.remedy] == []


BENIGN = """
INFO 02-13 18:00:00 __init__.py:190] Automatically detected platform cuda.
WARNING 02-13 18:00:00 arg_utils.py:1145] Chunked prefill is enabled by default for models with max_model_len > 32K.
INFO 02-13 18:00:00 model_runner.py:1434] If out-of-memory error occurs during cudagraph capture, consider decreasing `gpu_memory_utilization`.
Unsloth: Fast downloading is enabled - ignore downloading bars which are red colored!
Special tokens have been added in the vocabulary, make sure the associated word embeddings are fine-tuned or trained.
Error while downloading: HTTPSConnectionPool(host='cdn', port=443): Read timed out. Trying to resume download...
requests.exceptions.ConnectionError: HTTPSConnectionPool(host='stats.vllm.ai', port=443): Max retries exceeded with url: /
Setting `pad_token_id` to `eos_token_id`:128001 for open-end generation.
NCCL version 2.21.5+cuda12.4
Loading safetensors checkpoint shards: 100% Completed | 2/2 [00:09<00:00,  4.71s/it]
"""


def test_warnings_of_a_good_load_are_no_trouble(t4_log: Path, tmp_path: Path):
    """Warnings of every load name no trouble, even if the load failed for an unknown reason."""
    log = _after_weights(t4_log, tmp_path, BENIGN + "OverflowError: never seen")
    assert sightings(parse_log(log)) == ()


def test_a_hidden_id_must_be_a_trouble():
    """An entry that hides an unknown id is an error of the file."""
    with pytest.raises(BadInput, match="hides y, which is no trouble"):
        validate(Troubles, {"troubles": [trouble_entry(hides=["y"])]}, "here")
