"""Logs of other people, shortened and rewritten: what an expert says of each. The public repository or issue is named where the form is from."""

import json
from pathlib import Path

import pytest

from loadcheck.checking import gather
from loadcheck.stacks import parse_log
from loadcheck.verdict import Verdict, causes, judge
from tests.v1_logs import Start, text

LLAMA = Start(release="0.11.0")
READY = text(LLAMA)


def _judged(tmp_path: Path, log: str) -> Verdict:
    path = tmp_path / "load.log"
    path.write_text(log)
    return judge(gather(path))


def _cause(verdict: Verdict) -> str:
    return causes(verdict)[0].why


# ---------------------------------------------------------------------------------------------------------------- several cards


# ------------------------------------------------------------------------------------------------------------------------ servers

# ------------------------------------------------------------------------------------------------------------------------- causes


def test_the_traceback_of_a_notebooks_cell_is_read(tmp_path: Path):
    """It is saved with colours and without line breaks, each part a string of its own (trietnguyeminh/Submission---EXACT--IJCNN)."""
    parts = ["-" * 75, "\x1b[0;31mRuntimeError\x1b[0m      Traceback (most recent call last)", "\x1b[0;32m/tmp/a.py\x1b[0m in \x1b[0;36m<cell line: 0>\x1b[0;34m()\x1b[0m\n    1 x", "\x1b[0;31mRuntimeError\x1b[0m: Engine core initialization failed."]  # fmt: skip
    cell = json.dumps({"output_type": "error", "ename": "RuntimeError", "traceback": parts}, indent=1)
    _judged(tmp_path, READY.partition("INFO 06-01 10:00:05")[0] + cell)
    texts = [error.text for error in parse_log(tmp_path / "load.log").last.errors]
    assert texts[-1] == "RuntimeError: Engine core initialization failed."


# ---------------------------------------------------------------------------------------------------------------- figures and shape

V0 = """\
INFO 09-18 09:25:15 [worker.py:287] the current vLLM instance can use total_gpu_memory (23.55GiB) x gpu_memory_utilization (0.78) = 18.28GiB
INFO 09-18 09:25:15 [worker.py:287] model weights take 3.42GiB; non_torch_memory takes 0.07GiB; PyTorch activation peak memory takes 2.62GiB; \
the rest of the memory reserved for KV Cache is 12.17GiB.
INFO 09-18 09:25:15 [executor_base.py:112] # cuda blocks: {blocks}, # CPU blocks: 2730
"""
PLAN = "Unsloth: vLLM's KV Cache can use up to 15.62 GB. Also swap space = 6 GB.\n"


@pytest.mark.parametrize(("blocks", "holds"), [(5540, True), (5535, True), (5550, False)])
def test_a_block_that_the_swap_space_implies_is_an_interval(blocks: int, holds: bool, tmp_path: Path):
    """6 GiB hold 2,730 blocks of 2,303.7 to 2,304.6 KiB; Qwen3-4B's have 2,304 (johnson7788/RLDecisionAgent, an RTX 4090 D)."""
    verdict = _judged(tmp_path, PLAN + V0.format(blocks=blocks))
    assert ("num_gpu_blocks" not in {finding.figure for finding in verdict.failures()}) == holds
