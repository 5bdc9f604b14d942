"""Write docs/evidence.md: what was predicted and what was logged, for every log with a known model.

Our own runs are in tests/runs. Public logs are read if they are on this machine; otherwise their lines are kept.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from loadcheck.checking import gather
from loadcheck.figures import figure_specs
from loadcheck.stacks import parse_log
from loadcheck.verdict import Evidence

ROOT = Path(__file__).resolve().parents[1]
OWN = ROOT / "tests" / "runs"
PUBLIC = ROOT.parent / "shared" / "logs"
DOCUMENT = ROOT / "docs" / "evidence.md"

FIGURES = (
    "weights_bytes", "activation_peak_bytes", "kv_cache_bytes", "num_gpu_blocks", "num_cpu_blocks", "num_cuda_graphs",
    "cuda_graph_bytes",
)  # fmt: skip
SLOTS_COUNTED = (
    "vLLM from 0.8 on counts the LoRA slots as weights, so the weights are larger and the cache smaller by them"
)
PUBLIC_LOGS = {
    "nb_2025-02-06_Kaggle_Llama3.1_8B_GRPO_1390.txt": "",
    "nb_2025-02-06_Kaggle_Phi_4_GRPO_9046.txt": "",
    "nb_2025-05-13_HuggingFace_Course_Mistral_v0_3_7B_GRPO_d225.txt": f"{SLOTS_COUNTED} (0.165 GiB at rank 32)",
    "nb_2025-05-16_Advanced_Llama3_2_3B_GRPO_LoRA_8347.txt": f"{SLOTS_COUNTED} (0.216 GiB at rank 64)",
}
NOT_PREDICTED = """\
Not predicted:

- Dynamic quants (`…-unsloth-bnb-4bit`) whose 16-bit modules are not known, such as Qwen2.5 0.5B: give their config.json. Those of Llama 3.1 8B
  and Qwen2.5 3B are known, and predicted.
- gemma 3, vision models and AWQ: refused by name.
- Logs of vLLM's V1 engine, which prints no breakdown.

There is no complete public log of vLLM without unsloth. What excerpts print is predicted to the digit: the weights of Qwen2.5 7B in NF4 (5.2032,
vllm #13882, 2025-02-26) and of Llama 3.1 8B in 16 bits (14.9888, 2025-03-25), the activation peak of 256 sequences of Qwen2.5 7B (1.42) and
1.5B (1.40, vLLM 0.7.2, 2025-03-01), and their CPU blocks.
"""
HEAD = """\
# Predicted and logged

How every prediction compares with what was logged. `.venv/dev/bin/python scripts/evidence.py` writes this page; a test keeps it up to date.

Each cell is *predicted / logged*, GiB for memory. A `!` marks two numbers that differ in a printed digit. Predictions start from the run's own
free memory and settings; for a public log, which does not state its free memory, from the plan that it prints.

| log | GPU | vLLM | sequences | length | weights | activation | KV cache | blocks | CPU blocks | graphs | graph memory |
| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
"""


def main() -> int:
    text = document()
    if "--check" in sys.argv:
        return 0 if DOCUMENT.read_text(encoding="utf-8") == text else 1
    DOCUMENT.write_text(text, encoding="utf-8")
    return 0


def document() -> str:
    notes = [f"- {name}: {note}." for name, note in PUBLIC_LOGS.items() if note]
    own_note = (
        "- Our own runs: only graph memory is fitted (within 5 % on the H100, from its runs; within 10 % on the H200, with the H100's "
        "constants). The KV cache and the blocks follow from non_torch, a constant of card and driver. Loads that unsloth tried twice "
        "are not shown: the second try starts with what the first one left on the card.\n"
    )
    return (
        HEAD + "\n".join([*own_rows(), *public_rows()]) + "\n\n" + own_note + "\n".join(notes) + "\n\n" + NOT_PREDICTED
    )


def own_rows() -> Iterator[str]:
    for path in sorted([*OWN.glob("*.txt"), *(OWN / "h100").iterdir(), *(OWN / "h200").iterdir()]):
        evidence = gather(path)
        tries = parse_log(path / "load.log" if path.is_dir() else path).attempts
        if evidence.predicted is not None and len(tries) == 1:
            yield row(str(path.relative_to(OWN)), evidence)


def public_rows() -> Iterator[str]:
    if PUBLIC.is_dir():
        for name in PUBLIC_LOGS:
            yield row(name, gather(PUBLIC / name, any_release=True))
    else:
        yield from (line for line in DOCUMENT.read_text(encoding="utf-8").splitlines() if line.startswith("| nb_"))


def row(name: str, evidence: Evidence) -> str:
    figures = evidence.attempt.figures
    printed = (figures.gpu_name, figures.vllm, figures.max_num_seqs, figures.max_model_len)
    cells = [name, *("not in log" if value is None else str(value) for value in printed)]
    return "| " + " | ".join([*cells, *(cell(evidence, attribute) for attribute in FIGURES)]) + " |"


def cell(evidence: Evidence, attribute: str) -> str:
    assert evidence.predicted is not None
    predicted, reading = getattr(evidence.predicted, attribute), evidence.attempt.reading(attribute)
    spec = figure_specs()[attribute]
    if reading is None:
        return f"{spec.show(predicted)} / not in log"
    mark = "" if reading.agrees(predicted) else " !"
    return f"{spec.show(predicted)} / {reading.show()}{mark}"


if __name__ == "__main__":
    raise SystemExit(main())
