"""Engines that decode speculatively: what V0 prints of a draft model, and how many blocks of the KV cache the two models share."""

from pathlib import Path

import pytest

from loadcheck.checking import gather
from loadcheck.stacks import parse_log
from tests.conftest import RUNS
from tests.judging import judge_text
from tests.v1_logs import Start, text

MODEL = "unsloth/Qwen2.5-7B-Instruct-bnb-4bit"
BLOCK_BYTES, DRAFT_BLOCK_BYTES = 28 * 2 * 16 * 512 * 2, 24 * 2 * 16 * 128 * 2
"""Of Qwen2.5 7B and 0.5B: layers × keys and values × tokens × numbers × 2 bytes."""
BLOCKS, LENGTH = 73_847, 4_096
SHARED = int(BLOCKS * BLOCK_BYTES / (BLOCK_BYTES + DRAFT_BLOCK_BYTES))
"""As vllm/spec_decode/spec_decode_worker.py:1250-1270 at 0.7.2 computes it."""
WEIGHTS = "INFO 11-29 15:55:46 model_runner.py:1115] Loading model weights took 5.2032 GB\n"
CAPTURED = "INFO 11-29 15:55:58 model_runner.py:1562] Graph capturing finished in 9 secs, took 0.42 GiB\n"
DRAFT = "Qwen/Qwen2.5-0.5B-Instruct"
KNOWN_SWAP = "Unsloth: vLLM's KV Cache can use up to 15.62 GB. Also swap space = 4 GB.\n"


def _plain() -> str:
    """A start of vLLM 0.7.2 alone (H200, 2026-11-29), as it printed it, without the events of our engine."""
    lines = (RUNS / "h200" / "plain-qwen2.5-7b" / "load.log").read_text(encoding="utf-8").splitlines(keepends=True)
    kept = (each for each in lines if not each.startswith("loadcheck: ") and "graph shapes" not in each)
    return "".join(kept).replace("/root/.cache/loadcheck/weights/synthetic/qwen2.5-7b-instruct-bnb-4bit", MODEL)


def _speculative(draft: str = DRAFT, blocks: int = SHARED, weights: int = 1, graphs: int = 1) -> str:
    """The same start with a draft model, with these numbers of further lines for it (spec_decode_worker.py:325-328, 379-407)."""
    loaded = f"INFO 11-29 15:55:46 model_runner.py:1110] Starting to load model {draft}...\n" + WEIGHTS.replace(
        "5.2032", "0.9277"
    )
    return (
        _plain()
        .replace("speculative_config=None", f"speculative_config=SpeculativeConfig(draft_model='{draft}', num_spec_tokens=5)")
        .replace(WEIGHTS, WEIGHTS + weights * loaded)
        .replace(f"blocks: {BLOCKS}", f"blocks: {blocks}")
        .replace("288.46x", f"{blocks * 16 / LENGTH:.2f}x")
        .replace(CAPTURED, CAPTURED + graphs * CAPTURED.replace("9 secs, took 0.42", "2 secs, took 0.11"))
    )  # fmt: skip


def _failures(log: str, folder: Path) -> set[str]:
    return {finding.figure for finding in judge_text(folder, log).failures()}


def test_the_lines_of_a_draft_model_are_not_the_models(tmp_path: Path):
    """A start with a draft model is one attempt, passes, and has the figures of the model itself; nothing is predicted for it."""
    verdict = judge_text(tmp_path, _speculative())
    assert verdict.passed
    assert "speculative decoding is not modelled" in " ".join(finding.why for finding in verdict.findings)
    log = parse_log(tmp_path / "load.log")
    assert len(log.attempts) == 1
    read = log.last.figures.to_json()
    assert (read["model"], read["weights_gib"], read["cuda_graph_gib"]) == (MODEL, 5.2032, 0.42)


@pytest.mark.parametrize("graphs", [0, 1])
@pytest.mark.parametrize(
    ("draft", "blocks", "holds"),
    [
        (DRAFT, SHARED, True),
        (DRAFT, SHARED + 20, False),
        (DRAFT, SHARED - 20, False),
        (DRAFT, BLOCKS, False),
        ("yuhuili/EAGLE-Qwen2-7B-Instruct", 71_300, True),
        ("yuhuili/EAGLE-Qwen2-7B-Instruct", BLOCKS, True),
        ("yuhuili/EAGLE-Qwen2-7B-Instruct", BLOCKS + 20, False),
        (MODEL, BLOCKS // 2, True),
        (MODEL, BLOCKS, False),
    ],
)
def test_a_draft_model_shares_the_cache(draft: str, blocks: int, holds: bool, graphs: int, tmp_path: Path):
    """Both models get as many blocks, within the memory of the model's own; a draft of unknown size only limits them."""
    assert _failures(_speculative(draft, blocks, graphs=graphs), tmp_path) == (set() if holds else {"num_gpu_blocks"})


@pytest.mark.parametrize(("blocks", "holds"), [(BLOCKS, True), (BLOCKS - 20, False), (SHARED, False)])
def test_tokens_drafted_without_a_model_leave_the_cache_whole(blocks: int, holds: bool, tmp_path: Path):
    """N-grams of the prompt need no memory, and no line of a second model belongs to such an engine."""
    log = _speculative("[ngram]", blocks, weights=0, graphs=0)
    assert _failures(log, tmp_path) == (set() if holds else {"num_gpu_blocks"})


@pytest.mark.parametrize(
    ("log", "figure"),
    [
        (_speculative(weights=2), "attempts"),
        (_speculative(graphs=2), "captured"),
        (_speculative("[ngram]", BLOCKS), "attempts"),
        (_speculative("[ngram]", BLOCKS, weights=0), "captured"),
        (_plain().replace(WEIGHTS, WEIGHTS + WEIGHTS), "weights"),
        (_plain().replace(CAPTURED, CAPTURED + CAPTURED), "captured"),
        (_speculative().replace("model weights take 5.20GiB", "model weights take 0.93GiB"), "weights_gib"),
        (_speculative().replace("# CUDA blocks", "ValueError: no room for the draft\n# CUDA blocks"), "error"),
        (_speculative() + _speculative(), "attempts"),
    ],
)
def test_only_one_draft_model_belongs_to_an_engine(log: str, figure: str, tmp_path: Path):
    """Lines of a third model, of a second one without speculation, and of another load still fail."""
    assert figure in _failures(log, tmp_path)


@pytest.mark.parametrize(("blocks", "holds"), [(SHARED, True), (BLOCKS, True), (BLOCKS + 40, False)])
def test_a_block_from_swap_space_limits_the_cache_beside_a_draft(blocks: int, holds: bool, tmp_path: Path):
    """For an unknown model, the block's size follows from the CPU blocks, which are the model's alone, and the GPU blocks may be fewer."""
    log = _speculative("another/draft", blocks).replace(MODEL, "another/model").replace("INFO", KNOWN_SWAP + "INFO", 1)
    # 4 GiB of swap space hold 4,681 blocks; unsloth's line makes its banner required, so only this figure is looked at
    assert ("num_gpu_blocks" in _failures(log, tmp_path)) is not holds


@pytest.mark.parametrize("release", ["0.9.2", "0.13.0", "0.33.0"])
@pytest.mark.parametrize(
    ("draft", "holds"),
    [
        ("None", False),
        ("SpeculativeConfig(method='ngram', model=None, num_spec_tokens=4)", False),
        ("SpeculativeConfig(method='eagle', model='yuhuili/EAGLE-LLaMA3-Instruct-8B', num_spec_tokens=4)", True),
    ],
)
def test_a_draft_of_v1_shares_the_cache(release: str, draft: str, holds: bool, tmp_path: Path):
    """With the layer of an EAGLE head the cache holds fewer tokens than the model's own 32 layers leave; without a draft that is a fault."""
    log = text(Start(release=release, num_layers=33)).replace("speculative_config=None", f"speculative_config={draft}")
    assert _failures(log, tmp_path) == (set() if holds else {"kv_cache_tokens"})
    assert not parse_log(
        tmp_path / "load.log"
    ).last.draft_formats  # V1 prints no line for its draft; a second capture is the real one


def test_a_draft_of_v1_does_not_add_tokens(tmp_path: Path):
    """With a draft the tokens are still limited by the model's own layers."""
    log = text(Start(release="0.13.0", num_layers=31))
    draft = "SpeculativeConfig(method='eagle3', model='a/draft', num_spec_tokens=4)"
    assert _failures(log.replace("speculative_config=None", f"speculative_config={draft}"), tmp_path) == {
        "kv_cache_tokens"
    }


def test_a_run_of_ours_does_not_speculate(tmp_path: Path):
    """The engine of a bare log may have a draft model; unsloth's and that of a run of ours have none."""
    log = (RUNS / "t4_llama31-8b_reference.txt").read_text(encoding="utf-8")
    draft = "speculative_config=SpeculativeConfig(draft_model='[ngram]', num_spec_tokens=5)"
    (tmp_path / "load.log").write_text(log.replace("speculative_config=None", draft), encoding="utf-8")
    assert gather(tmp_path / "load.log").attempt.draft_model is None
    assert "speculative_config" in _failures(log.replace("speculative_config=None", draft), tmp_path)
