"""Logs of vLLM's V1 engine, and of releases before 0.7: read and judged by their own figures, and not predicted."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from loadcheck.checking import gather
from loadcheck.figures import SIDE_SPECS, figure_specs
from loadcheck.stacks import DIALECT, parse_log
from loadcheck.units import GIB
from loadcheck.verdict import judge
from tests.judging import judge_text
from tests.v1_logs import RELEASES, Start, text

CONFIG = "model='meta-llama/Llama-3.1-8B-Instruct', dtype=torch.bfloat16, max_seq_len=8192, load_format=auto, quantization=None, enforce_eager=False,"
V1 = f"""\
INFO 03-02 10:00:00 [core.py:58] Initializing a V1 LLM engine (v0.11.0) with config: {CONFIG}
INFO 03-02 10:00:15 [gpu_model_runner.py:2653] Model loading took 14.9889 GiB and 9.123456 seconds
INFO 03-02 10:00:30 [gpu_worker.py:298] Available KV cache memory: 54.12 GiB
INFO 03-02 10:00:30 [kv_cache_utils.py:1087] GPU KV cache size: 443,328 tokens
INFO 03-02 10:00:30 [kv_cache_utils.py:1091] Maximum concurrency for 8,192 tokens per request: 54.12x
INFO 03-02 10:00:45 [gpu_model_runner.py:3480] Graph capturing finished in 5 secs, took 0.52 GiB
INFO 03-02 10:00:45 [gpu_worker.py:400] Free memory on device (78.7/79.18 GiB) on startup. Desired GPU memory utilization is (0.9, 71.26 GiB). \
Actual usage is 14.99 GiB for weight, 1.54 GiB for peak activation, 0.6 GiB for non-torch memory, and 0.52 GiB for CUDAGraph memory.
INFO 03-02 10:00:45 [core.py:210] init engine (profile, create kv cache, warmup model) took 30.12 seconds
"""


def test_a_complete_start_is_read_and_passes(tmp_path: Path):
    """Every figure of a complete start is read, 0.6 as 0.60, nothing is called missing, and one note says what is not checked."""
    verdict = judge_text(tmp_path, V1)
    assert verdict.status == "pass", verdict.failures()
    assert sum("V1 engine" in finding.why for finding in verdict.findings) == 1
    attempt = parse_log(tmp_path / "load.log").last
    assert attempt.figures.kv_cache_bytes == round(54.12 * GIB)
    assert attempt.reading("non_torch_bytes").decimals == 2


@pytest.mark.parametrize("prefix", ["(EngineCore_0 pid=41) ", "(EngineCore pid=1) ", "(Worker_TP0 pid=9) "])
def test_prefixes_change_nothing(prefix: str, tmp_path: Path):
    """Prefixes change nothing, and a trial capture before the real one is no second load."""
    lines = V1.splitlines()
    trial = lines[5].replace("0.52", "0.11")
    text = "".join(prefix + line + "\n" for line in [*lines[:5], trial, *lines[5:]])
    assert judge_text(tmp_path, text).status == "pass"


@pytest.mark.parametrize(
    ("old", "new", "figure"),
    [
        ("443,328", "453,328", "kv_cache_tokens"),
        ("memory: 54.12", "memory: 55.12", "kv_cache_gib"),
        ("71.26", "72.26", "budget_gib"),
        ("took 14.9889", "took 15.9889", "weights_gib"),
        ("54.12x", "55.12x", "kv_cache_tokens"),
    ],
)
def test_one_changed_digit_fails(old: str, new: str, figure: str, tmp_path: Path):
    """Figures that contradict each other are named."""
    verdict = judge_text(tmp_path, V1.replace(old, new))
    assert figure in {finding.figure for finding in verdict.failures()}


def test_an_unfinished_start_is_reported_as_such(tmp_path: Path):
    """Two lines alone are an unfinished start, without missing lines of the other engine."""
    verdict = judge_text(tmp_path, "\n".join(V1.splitlines()[2:4]))
    assert [finding.figure for finding in verdict.failures() if not finding.missing] == ["outcome"]
    assert not any("unsloth" in finding.why for finding in verdict.failures())


def test_the_older_breakdown_is_read(tmp_path: Path):
    """vLLM 0.6.4 prints the breakdown on one line, its development builds one figure per line, and Markdown may remove a number sign."""
    figures = "total_gpu_memory=79.1GiB {0}initial_memory_usage=68.2GiB {0}peak_torch_memory=3.1GiB {0}non_torch_memory=1.9GiB {0}kv_cache_size=0.2GiB"
    log = tmp_path / "old.log"
    for separator in ("", "\n"):
        log.write_text(
            f"INFO 11-11 10:00:00 worker.py:232] Memory profiling results: {figures.format(separator)}\nGPU blocks: 1952, # CPU blocks: 2048\n"
        )
        read = parse_log(log).last.figures
        assert (read.gpu_total_bytes, read.non_torch_bytes) == (round(79.1 * GIB), round(1.9 * GIB))
        assert (read.kv_cache_bytes, read.num_gpu_blocks, read.num_cpu_blocks) == (round(0.2 * GIB), 1952, 2048)


@pytest.mark.parametrize(
    ("tokens", "dtype", "status"),
    [
        (443_328, "auto", "pass"),
        (443_264, "auto", "pass"),
        (221_664, "auto", "fail"),
        (886_656, "fp8", "pass"),
        (443_328, "fp8", "fail"),
        (443_968, "auto", "fail"),
    ],
)
def test_tokens_must_match_the_memory(tokens: int, dtype: str, status: str, tmp_path: Path):
    """For a known model the cache has as many tokens as its bytes hold in whole blocks, in the engine's dtype."""
    text = V1.replace("enforce_eager=False,", f"kv_cache_dtype={dtype}, enforce_eager=False,").replace(
        "443,328", f"{tokens:,}"
    )
    assert judge_text(tmp_path, text.replace("54.12x", f"{tokens / 8192:.2f}x")).status == status


def test_the_summarys_bytes_are_the_cache(tmp_path: Path):
    """The summary's last sentence has the cache in bytes, and another number there fails."""
    text = V1.replace(
        "CUDAGraph memory.", f"CUDAGraph memory. Current kv cache memory in use is {int(54.12 * GIB)} bytes."
    )
    assert judge_text(tmp_path, text).status == "pass"
    assert "kv_cache_gib" in {f.figure for f in judge_text(tmp_path, text.replace("use is 5", "use is 6")).failures()}


LOGS = {
    **{release: Start(release=release) for release in RELEASES},
    "debug": Start(release="0.19.1", debug=True, counted=True),
    "0.18 counted": Start(release="0.18.1", debug=True, counted=True),
    "not counted": Start(release="0.25.0", debug=True, counted=False),
    "no graphs": Start(release="0.33.0", eager=True),
    "odd length": Start(release="0.16.0", length=1000),
    "odd length, newest": Start(release="0.31.0", length=1000),
    "shortened": Start(release="0.21.0", length=131_072, fitted_length=70_016),
}


@pytest.mark.parametrize("name", LOGS)
def test_a_start_of_each_release_passes(name: str, tmp_path: Path):
    """For each release every memory line is read and consistent, and no line that it lacks is called missing."""
    log = tmp_path / "load.log"
    log.write_text(text(LOGS[name]))
    evidence = gather(log)
    verdict = judge(evidence)
    assert verdict.status == "pass", verdict.failures()
    assert [line for line in log.read_text().splitlines() if "GiB" in line and not _is_read(line)] == []


def _is_read(line: str) -> bool:
    return any(format.pattern.search(line) for format in DIALECT.formats)


FIGURES_OF_IDENTITIES = {"budget_gib", "kv_cache_gib", "kv_cache_tokens", "budget_kv_gib", "card_kv_gib", "graph_pool_gib", "graph_difference_gib",
        "graph_difference_pct", "utilization_without_graphs_pct", "utilization_with_graphs_pct", "weights_gib", "activation_peak_gib",
        "non_torch_gib", "consumed_gib", "max_concurrency", "free_on_start_gib", "graph_estimate_gib", "max_model_len", "gpu_total_gib",
        "asked_length", "fitted_length"}  # fmt: skip
"""The figures that V1's identities cover, if the release prints what they need."""


@pytest.mark.parametrize("name", ["0.8.5", "0.10.2", "debug", "0.18 counted", "0.27.0", "0.33.0", "shortened"])
def test_one_changed_digit_of_a_start_fails(name: str, tmp_path: Path):
    """With the first digit of any figure of an identity changed, the verdict is no pass."""
    whole = text(LOGS[name])
    passed = {
        (spec, shown)
        for spec, shown, changed in _changed_digits(whole)
        if spec in FIGURES_OF_IDENTITIES and judge_text(tmp_path, changed).status == "pass"
    }
    alone = {"weights_gib"} if "Actual usage" not in whole else set()  # no sum with it is printed
    assert {(spec, shown) for spec, shown in passed if spec not in alone} == set()


def _changed_digits(whole: str) -> Iterator[tuple[str, str, str]]:
    """(figure, its text in the log, the log with the first digit of that changed)."""
    specs = figure_specs() | SIDE_SPECS
    for format in DIALECT.formats:
        for match in format.pattern.finditer(whole):
            for group, capture in enumerate(format.captures, 1):
                at = next((at for at in range(*match.span(group)) if whole[at].isdigit()), None)
                if at is not None and not _is_in_the_trial(whole, match.start()):
                    digit = str((int(whole[at]) + 1) % 10 or 1)
                    yield specs[capture.attribute].name, match.group(group), whole[:at] + digit + whole[at + 1 :]


def _is_in_the_trial(whole: str, at: int) -> bool:
    """Whether it is in the first of two captures, which nothing else checks."""
    return (
        "Graph capturing" in whole[at:]
        and whole[at:].startswith("Graph capturing")
        and whole[at:].count("Graph capturing") > 1
    )


PLAN = """\
==((====))==  Unsloth 2026.10.9: Fast Llama patching. Transformers: 5.17.0. vLLM: 0.33.0.
   \\\\   /|    NVIDIA H100 80GB HBM3. Num GPUs = 1. Max memory: 79.18 GB. Platform: Linux.
Unsloth: vLLM loading unsloth/meta-llama-3.1-8b-instruct-bnb-4bit with actual GPU utilization = 89.42%
Unsloth: Your GPU has CUDA compute capability 9.0 with VRAM = 79.18 GB.
Unsloth: Using conservativeness = 1.0. Chunked prefill tokens = 8192. Num Sequences = 128.
Unsloth: vLLM's KV Cache can use up to 63.2 GB. Swap space is left to vLLM.
"""


def test_newer_plans_of_unsloth_are_not_held_to_the_pinned(tmp_path: Path):
    """Newer lines of unsloth before a V1 start are read, with or without swap space, and not held to the pinned version's sequences or graph sizes."""
    start = text(Start(release="0.33.0", model="unsloth/meta-llama-3.1-8b-instruct-bnb-4bit", utilization=0.8942))
    assert judge_text(tmp_path, PLAN + start).status == "pass"
    figures = parse_log(tmp_path / "load.log").last.figures
    assert (figures.kv_estimate_bytes, figures.max_num_seqs, figures.unsloth) == (round(63.2 * GIB), 128, "2026.10.9")


@pytest.mark.parametrize("model", ["google/gemma-4-E4b-it", "openai/gpt-oss-20b", "poolside/Laguna-S-2.1"])
def test_models_with_windows_may_have_fewer_tokens(model: str, tmp_path: Path):
    """Before 0.21 tokens are counted as if each layer kept all, so fewer than concurrency × length is no contradiction; more is."""
    whole = text(Start(release="0.11.0", model=model))
    concurrency = f"{Start(release='0.11.0').concurrency:.2f}x"
    assert judge_text(tmp_path, whole.replace(concurrency, "161.30x")).status == "pass"
    assert judge_text(tmp_path, whole.replace(concurrency, "11.30x")).status == "fail"


@pytest.mark.parametrize("release", ["0.8.5", "0.11.0", "0.33.0"])
def test_each_rank_prints_its_start(release: str, tmp_path: Path):
    """Of a tensor-parallel start one rank is read: it is one load, and one note says what is not modelled."""
    stamp = "(VllmWorker rank={} pid=41) " if release == "0.8.5" else "(Worker_TP{} pid=41) "
    ranks = [text(replace(Start(release=release), cards=2), stamp.format(rank)).splitlines() for rank in (0, 1)]
    whole = "\n".join(line for pair in zip(*ranks, strict=True) for line in pair)
    verdict = judge_text(tmp_path, whole)
    assert verdict.status == "pass", verdict.failures()
    assert sum(finding.figure == "tensor_parallel" for finding in verdict.findings) == 1


FAILURES = {
    "0.8.5": "ValueError: To serve at least one request with the models's max seq len (131072), (16.00 GiB KV cache is needed, which is larger "
    "than the available KV cache memory (3.86 GiB). Based on the available memory, the estimated maximum model length is 31616. Try "
    "increasing `gpu_memory_utilization` or decreasing `max_model_len` when initializing the engine.",
    "0.33.0": "ValueError: To serve at least one request with the model's max seq len (131072), (16.0 GiB KV cache is needed, which is larger "
    "than the available KV cache memory (3.86 GiB). Based on the available memory, the estimated maximum model length is 31616. Try "
    "increasing `gpu_memory_utilization` (which also controls CPU memory on the CPU backend) or decreasing `max_model_len` when "
    "initializing the engine.",
}


@pytest.mark.parametrize("release", FAILURES)
def test_a_cache_that_is_too_small_suggests_a_length(release: str, tmp_path: Path):
    """The fix has the engine's own estimate of the longest length."""
    whole = text(Start(release=release))
    until = whole[: whole.index("GPU KV cache size")].rpartition("\n")[0]
    failed = f"{until}\n(EngineCore_0 pid=9) ERROR 06-01 10:00:09 [core.py:700] {FAILURES[release]}\n"
    causes = [finding for finding in judge_text(tmp_path, failed).failures() if finding.trouble == "kv-too-small"]
    assert len(causes) == 1 and "31616 tokens fit" in causes[0].remedy


TABLE = """\
INFO 12-13 19:54:18 worker.py:243] Memory profiling results:
INFO 12-13 19:54:18 worker.py:243] duration\t0.75 seconds
INFO 12-13 19:54:18 worker.py:243] total_gpu_memory\t79.22GiB
INFO 12-13 19:54:18 worker.py:243] gpu_memory_utilization\t0.90
INFO 12-13 19:54:18 worker.py:243] the current vLLM instance can use\t71.29GiB
INFO 12-13 19:54:18 worker.py:243] model weights take\t14.96GiB
INFO 12-13 19:54:18 worker.py:243] non_torch_memory\t1.79GiB
INFO 12-13 19:54:18 worker.py:243] PyTorch activation peak memory\t1.26GiB
INFO 12-13 19:54:18 worker.py:243] available_kv_cache_memory\t53.29GiB
INFO 12-13 19:54:19 gpu_executor.py:76] # GPU blocks: 27284, # CPU blocks: 2048
"""


@pytest.mark.parametrize("gap", ["\t", "     ", " "])
def test_the_breakdown_as_a_table_is_checked(gap: str, tmp_path: Path):
    """In the table that 0.6.5 printed for a while, one figure per line, all are read, none is missing, and every identity holds."""
    verdict = judge_text(tmp_path, TABLE.replace("\t", gap))
    figures = parse_log(tmp_path / "load.log").last.figures.to_json()
    assert [figures[f"{name}_gib"] for name in ("gpu_total", "budget", "weights", "non_torch", "activation_peak", "kv_cache")] == [
        79.22, 71.29, 14.96, 1.79, 1.26, 53.29]  # fmt: skip
    assert (figures["profile_s"], figures["gpu_memory_utilization_pct"]) == (0.75, 90.0)
    assert not [finding for finding in verdict.failures() if finding.figure.endswith("_gib") and not finding.missing]


@pytest.mark.parametrize(
    ("was", "now", "figure"),
    [("71.29", "72.29", "budget_gib"), ("14.96", "15.06", "kv_cache_gib"), ("1.79", "1.29", "kv_cache_gib"),
     ("1.26", "2.26", "kv_cache_gib"), ("53.29", "53.59", "kv_cache_gib"), ("0.90", "0.70", "budget_gib"), ("79.22", "69.22", "budget_gib")],
)  # fmt: skip
def test_a_changed_figure_of_the_table_fails(was: str, now: str, figure: str, tmp_path: Path):
    """A changed figure of the table fails by the same identities as the sentence."""
    assert was in TABLE
    assert figure in {finding.figure for finding in judge_text(tmp_path, TABLE.replace(was, now)).failures()}


def test_the_line_of_0_6_4_is_checked(tmp_path: Path):
    """kv_cache = total × utilization − peak_torch − non_torch, within utilization's two decimals."""
    line = (
        "INFO 12-06 17:07:09 worker.py:232] Memory profiling results: total_gpu_memory=7.92GiB initial_memory_usage=0.65GiB "
        "peak_torch_memory=0.71GiB memory_usage_post_profile=0.68GiB non_torch_memory=0.43GiB kv_cache_size=5.99GiB "
        "gpu_memory_utilization=0.90\n"
    )
    for changed, fails in ((line, False), (line.replace("5.99", "5.89"), True), (line.replace("0.71", "1.71"), True)):
        failures = {finding.figure for finding in judge_text(tmp_path, changed).failures()}
        assert ("kv_cache_gib" in failures) is fails


@pytest.mark.parametrize(
    ("was", "now", "figure"),
    [
        ("took 14.9889 GiB", "took 3.9889 GiB", "weights_gib"),
        ("took 14.9889 GiB", "took 24.9889 GiB", "weights_gib"),
        ("Llama-3.1-8B-Instruct", "Llama-3.2-1B-Instruct", "weights_gib"),
        (r"(size: [\d,]+)\d tokens", r"\g<1>1 tokens", "kv_cache_tokens"),
    ],
)
def test_weights_and_tokens_are_those_of_the_model(was: str, now: str, figure: str, tmp_path: Path):
    """In 16 bits on one card the weights are the known model's parameters, and before 0.21 the tokens are those of whole blocks."""
    log = text(Start(release="0.11.0"))
    assert figure in {finding.figure for finding in judge_text(tmp_path, re.sub(was, now, log)).failures()}


@pytest.mark.parametrize(
    "words", ["'cpu_offload_gb': 8.0,", "args: Namespace(cpu_offload_gb=4,", "Using PunicaWrapperGPU."]
)
def test_offloaded_weights_and_slots_are_not_compared(words: str, tmp_path: Path):
    """Weights that were offloaded do not count, and LoRA's slots do, with any size."""
    took = "took 8.9889 GiB" if "offload" in words else "took 18.9889 GiB"
    log = text(Start(release="0.11.0")).replace("took 14.9889 GiB", took)
    assert "weights_gib" in {finding.figure for finding in judge_text(tmp_path, log).failures()}
    told = log.replace("INFO 06-01 10:00:01", f"INFO 06-01 10:00:00 [a.py:1] {words}\nINFO 06-01 10:00:01")
    assert "weights_gib" not in {finding.figure for finding in judge_text(tmp_path, told).failures()}


@pytest.mark.parametrize(
    "line",
    [
        "Estimated CUDA graph memory",
        "CUDA graph pool memory",
        "Free memory on device",
        "for CUDAGraph memory",
        "kv cache memory in use",
    ],
)
def test_a_line_with_another_unit_does_not_count_as_absent(line: str, tmp_path: Path):
    """A line that only some starts print fails a log if its numbers have another unit than vLLM prints."""
    log = text(Start(release="0.33.0"))
    changed = "\n".join(each.replace("GiB", "MiB") if line in each else each for each in log.split("\n"))
    assert judge_text(tmp_path, log).status == "pass"
    assert judge_text(tmp_path, changed).status == "fail"
