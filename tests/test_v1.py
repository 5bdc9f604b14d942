"""Logs of vLLM's V1 engine, and of releases before 0.7: read, judged by what they state of each other, and not predicted."""

from pathlib import Path

import pytest

from loadcheck.checking import gather
from loadcheck.logs import parse_log
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
