"""Logs of vLLM's V1 engine, and of releases before 0.7: read, judged by what they state of each other, and not predicted."""

from pathlib import Path

import pytest

from loadcheck.checking import gather
from loadcheck.stacks import parse_log
from loadcheck.units import GIB
from loadcheck.verdict import judge

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


def _judged(tmp_path: Path, text: str):
    log = tmp_path / "v1.log"
    log.write_text(text)
    return judge(gather(log))


def test_a_whole_start_is_read_and_passes(tmp_path: Path):
    """Every figure of its lines is read; a rounded 0.6 stands for 0.60; nothing is called missing, and one note says what is not done."""
    verdict = _judged(tmp_path, V1)
    assert verdict.status == "pass", verdict.failures()
    assert sum("V1 engine" in finding.why for finding in verdict.findings) == 1
    attempt = parse_log(tmp_path / "v1.log").last
    assert attempt.figures.kv_cache_bytes == round(54.12 * GIB)
    assert attempt.reading("non_torch_bytes").decimals == 2


@pytest.mark.parametrize("prefix", ["(EngineCore_0 pid=41) ", "(EngineCore pid=1) ", "(Worker_TP0 pid=9) "])
def test_its_prefixes_change_nothing(prefix: str, tmp_path: Path):
    """Who printed a line is no part of it; a trial capture before the real one is no second load."""
    lines = V1.splitlines()
    trial = lines[5].replace("0.52", "0.11")
    text = "".join(prefix + line + "\n" for line in [*lines[:5], trial, *lines[5:]])
    assert _judged(tmp_path, text).status == "pass"


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
    """What its lines state of each other holds, or the figure is named."""
    verdict = _judged(tmp_path, V1.replace(old, new))
    assert figure in {finding.figure for finding in verdict.failures()}


def test_a_start_that_did_not_finish_is_told_as_that(tmp_path: Path):
    """Two lines alone are a start that was cut off, with no line of the other engine missing."""
    verdict = _judged(tmp_path, "\n".join(V1.splitlines()[2:4]))
    assert [finding.figure for finding in verdict.failures() if not finding.missing] == ["outcome"]
    assert not any("unsloth" in finding.why for finding in verdict.failures())


def test_the_older_breakdown_is_read(tmp_path: Path):
    """vLLM 0.6.4 prints it in one line, its development builds one figure a line; Markdown may eat a number sign."""
    figures = "total_gpu_memory=79.1GiB {0}initial_memory_usage=68.2GiB {0}peak_torch_memory=3.1GiB {0}non_torch_memory=1.9GiB {0}kv_cache_size=0.2GiB"
    log = tmp_path / "old.log"
    for separator in ("", "\n"):
        log.write_text(
            f"INFO 11-11 10:00:00 worker.py:232] Memory profiling results: {figures.format(separator)}\nGPU blocks: 1952, # CPU blocks: 2048\n"
        )
        read = parse_log(log).last.figures
        assert (read.gpu_total_bytes, read.non_torch_bytes) == (round(79.1 * GIB), round(1.9 * GIB))
        assert (read.kv_cache_bytes, read.num_gpu_blocks, read.num_cpu_blocks) == (round(0.2 * GIB), 1952, 2048)


def test_the_newest_end_is_read(tmp_path: Path):
    """0.33 prints the start's time as `s`, with the compilation's behind it (v1/engine/core.py:396-415)."""
    text = V1.replace("took 30.12 seconds", "took 30.12 s (compilation: 9.10 s)")
    assert text != V1 and _judged(tmp_path, text).status == "pass"


def _with_graphs(counted: str, version: str = "0.11.0", estimate: str = "") -> str:
    """The same start with 2.52 GiB of graphs, and a cache of `counted` GiB with tokens to match."""
    tokens = int(float(counted) * 8192) // 16 * 16
    text = V1.replace("0.52 GiB", "2.52 GiB").replace("v0.11.0", f"v{version}").replace("54.12 GiB", f"{counted} GiB")
    text = text.replace("443,328", f"{tokens:,}").replace("54.12x", f"{tokens / 8192:.2f}x")
    return text.replace("INFO 03-02 10:00:45 [core", estimate + "INFO 03-02 10:00:45 [core")


ESTIMATE = "INFO 03-02 10:00:44 [gpu_worker.py:1003] CUDA graph pool memory: 2.52 GiB (actual), 2.31 GiB (estimated), difference: 0.21 GiB (9.1%).\n"


@pytest.mark.parametrize(
    ("counted", "version", "estimate", "status"),
    [
        ("54.12", "0.11.0", "", "pass"),
        ("51.60", "0.19.0", "", "pass"),
        ("54.12", "0.19.0", "", "pass"),
        ("53.00", "0.19.0", "", "fail"),
        ("51.60", "0.11.0", "", "fail"),
        ("51.60", "0.33.0", "", "pass"),
        ("54.12", "0.33.0", "", "fail"),
        ("51.82", "0.33.0", ESTIMATE, "pass"),
        ("51.60", "0.33.0", ESTIMATE, "fail"),
    ],
)
def test_a_cache_is_without_its_graphs_or_with_them(
    counted: str, version: str, estimate: str, status: str, tmp_path: Path
):
    """Graph memory is taken from the cache or not, by the release or its own line; an amount between is of no log."""
    verdict = _judged(tmp_path, _with_graphs(counted, version, estimate))
    assert verdict.status == status, verdict.failures()
    assert {finding.figure for finding in verdict.failures()} <= {"kv_cache_gib"}


def test_the_newest_summary_is_checked(tmp_path: Path):
    """0.33 gives weights and non_torch in one; its sum holds, and with a changed digit it does not."""
    parts = "14.99 GiB for weight, 1.54 GiB for peak activation, 0.6 GiB for non-torch memory, and"
    consumed = "15.59 GiB for consumed memory (weights + non-torch), 1.54 GiB for peak activation, and"
    text = _with_graphs("51.82", "0.33.0", ESTIMATE).replace(parts, consumed)
    assert consumed in text and _judged(tmp_path, text).status == "pass"
    failures = _judged(tmp_path, text.replace("15.59", "15.99")).failures()
    assert {finding.figure for finding in failures} == {"kv_cache_gib"}


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
def test_tokens_are_those_that_the_memory_holds(tokens: int, dtype: str, status: str, tmp_path: Path):
    """Of a known model the cache has as many tokens as its bytes hold in whole blocks, in the type that the engine names."""
    text = V1.replace("enforce_eager=False,", f"kv_cache_dtype={dtype}, enforce_eager=False,").replace(
        "443,328", f"{tokens:,}"
    )
    assert _judged(tmp_path, text.replace("54.12x", f"{tokens / 8192:.2f}x")).status == status


def test_the_bytes_in_use_are_the_cache(tmp_path: Path):
    """The summary's last sentence says the cache to the byte, and another number there fails."""
    text = V1.replace(
        "CUDAGraph memory.", f"CUDAGraph memory. Current kv cache memory in use is {int(54.12 * GIB)} bytes."
    )
    assert _judged(tmp_path, text).status == "pass"
    assert "kv_cache_gib" in {f.figure for f in _judged(tmp_path, text.replace("use is 5", "use is 6")).failures()}


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
    """One figure a line, as 0.6.5 printed it for a while: all are read, none is missing, and no identity fails."""
    verdict = _judged(tmp_path, TABLE.replace("\t", gap))
    figures = parse_log(tmp_path / "v1.log").last.figures.to_json()
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
    """By the same identities as the sentence."""
    assert was in TABLE
    assert figure in {finding.figure for finding in _judged(tmp_path, TABLE.replace(was, now)).failures()}


def test_the_line_of_0_6_4_is_checked(tmp_path: Path):
    """kv_cache = total × utilization − peak_torch − non_torch, as far as its two decimals of utilization say it."""
    line = (
        "INFO 12-06 17:07:09 worker.py:232] Memory profiling results: total_gpu_memory=7.92GiB initial_memory_usage=0.65GiB "
        "peak_torch_memory=0.71GiB memory_usage_post_profile=0.68GiB non_torch_memory=0.43GiB kv_cache_size=5.99GiB "
        "gpu_memory_utilization=0.90\n"
    )
    for text, fails in ((line, False), (line.replace("5.99", "5.89"), True), (line.replace("0.71", "1.71"), True)):
        failures = {finding.figure for finding in _judged(tmp_path, text).failures()}
        assert ("kv_cache_gib" in failures) is fails
