"""Starts of vLLM before 0.6.4, which print neither their memory profile nor a line at their end: refused, not called unfinished."""

from pathlib import Path

import pytest

from loadcheck.checking import gather
from loadcheck.verdict import Status, causes, judge
from tests.judging import judge_text

ENGINE = (
    "INFO 08-09 13:55:56 llm_engine.py:174] Initializing an LLM engine (v0.5.4) with config: model='meta-llama/Meta-Llama-3.1-8B-Instruct', "
    "speculative_config=None, tokenizer='meta-llama/Meta-Llama-3.1-8B-Instruct', trust_remote_code=False, dtype=torch.bfloat16, max_seq_len=512, "
    "download_dir=None, load_format=LoadFormat.AUTO, tensor_parallel_size=1, pipeline_parallel_size=1, quantization=None, enforce_eager=False, "
    "kv_cache_dtype=auto, device_config=cuda, seed=0, enable_prefix_caching=False)\n"
)
LOADED = (
    "INFO 08-09 13:55:57 model_runner.py:720] Starting to load model meta-llama/Meta-Llama-3.1-8B-Instruct...\n"
    "INFO 08-09 13:56:03 model_runner.py:732] Loading model weights took 14.9888 GB\n"
)
BLOCKS = "INFO 08-09 13:56:04 gpu_executor.py:102] # GPU blocks: 9930, # CPU blocks: 2048\n"
GRAPHS = (
    "INFO 08-09 13:56:06 model_runner.py:1024] Capturing the model for CUDA graphs. This may lead to unexpected consequences if the model is not "
    "static.\n"
    "INFO 08-09 13:56:20 model_runner.py:1225] Graph capturing finished in 14 secs.\n"
)
SERVING = (
    "INFO:     Application startup complete.\nINFO:     Uvicorn running on http://0.0.0.0:8000 (Press CTRL+C to quit)\n"
)
ANSWERED = "Processed prompts: 100% 1000/1000 [01:14<00:00, 13.42it/s]\n"
START = ENGINE + LOADED + BLOCKS + GRAPHS
"""As 0.5.4 prints it, which public logs of benchmarks show."""


@pytest.mark.parametrize("release", ["0.4.3", "0.5.4", "0.5.5", "0.6.0", "0.6.3.post1", "0.6.3.post2.dev76+g51c24c97"])
@pytest.mark.parametrize("log", [START, START + SERVING, START + ANSWERED, ENGINE + LOADED + BLOCKS])
def test_a_start_that_tells_no_end_is_refused(log: str, release: str, tmp_path: Path):
    """A server, a script, and a start without graphs: none is a pass, none is called unfinished, and the reason is the first cause."""
    verdict = judge_text(tmp_path, log.replace("0.5.4", release))
    assert verdict.status == "refused"
    assert {finding.figure for finding in verdict.failures()} == {"outcome", "vllm"}
    assert causes(verdict)[0].why.startswith(
        "before 0.6.4 vLLM prints neither its memory profile nor a line at the end"
    )


def test_a_named_profile_is_held_against_it(tmp_path: Path):
    """Where a profile is named, the log must be of the pinned release, so that such a start fails."""
    (tmp_path / "load.log").write_text(START, encoding="utf-8")
    verdict = judge(gather(tmp_path / "load.log", profile_name="llama31-8b-instruct-4bit"))
    assert {"outcome", "vllm"} <= {finding.figure for finding in verdict.findings if finding.status is Status.FAIL}


@pytest.mark.parametrize(
    ("log", "figure"),
    [
        (ENGINE + LOADED, "outcome"),
        (ENGINE, "outcome"),
        (START.replace("0.5.4", "0.6.4"), "outcome"),
        (START.replace("0.5.4", "0.7.2"), "outcome"),
        (START + "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.\n", "error"),
        (START + "Killed\n", "error"),
        (START + START, "attempts"),
        (START.replace("# GPU blocks: 9930", "# GPU blocks: 9"), "num_gpu_blocks"),
    ],
)
def test_what_surely_did_not_finish_fails(log: str, figure: str, tmp_path: Path):
    """A start that ends before its blocks, a later release, an error, a death, two starts, and too few blocks still fail."""
    verdict = judge_text(tmp_path, log)
    assert figure in {finding.figure for finding in verdict.findings if finding.status is Status.FAIL}
