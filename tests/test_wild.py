"""Logs of other people, shortened and rewritten: what an expert says of each. The public repository or issue is named where the form is from."""

from pathlib import Path

import pytest

from loadcheck.checking import gather
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
