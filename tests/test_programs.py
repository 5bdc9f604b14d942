"""Program text given in place of a log: bad input, as it holds the words of a load, or of its end, and none was run."""

import json
from pathlib import Path

import pytest

from loadcheck import cli
from loadcheck.logs import Outcome
from loadcheck.logs.programs import MAX_NOTEBOOK_BYTES, MAX_PROGRAM_BYTES, program_kind
from loadcheck.stacks import parse_log
from tests.conftest import ROOT, RUNS, thinned
from tests.judging import only_error

OF_VLLM = """\
!pip install vllm
%load_ext autoreload
import os
from vllm import LLM, SamplingParams

llm = LLM(model="facebook/opt-125m", gpu_memory_utilization=0.6)
for output in llm.generate(["Hello"], SamplingParams()):
    print(f"Prompt: {output.prompt!r}")

def main():
    raise ValueError("Engine core initialization failed. See root cause above.")
"""
OF_UNSLOTH = '''\
"""Killed"""
from unsloth import FastLanguageModel

model, tokenizer = FastLanguageModel.from_pretrained("unsloth/Llama-3.1-8B", load_in_4bit=True)
print("Unsloth 2025.2.5: Fast Llama patching. Transformers: 4.48.2.")
print(f"""
==((====))==  Unsloth 2025.2.5: Fast Llama patching. Transformers: 4.48.2.
   \\\\\\   /|    GPU: Tesla T4. Max memory: 14.741 GB. Platform: Linux.
Unsloth 2025.2.5 patched 32 layers with 32 QKV layers, 32 O layers and 32 MLP layers.
RuntimeError: CUDA error: out of memory
""")
'''


def _notebook(*outputs: list[dict[str, object]]) -> str:
    cells: list[dict[str, object]] = [{"cell_type": "markdown", "source": ["# CUDA out of memory\n", "Killed\n"]}]
    cells += [{"cell_type": "code", "source": OF_VLLM.splitlines(keepends=True), "outputs": each} for each in outputs]
    return json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}, indent=1)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (OF_VLLM, "a Python program"),
        (OF_UNSLOTH, "a Python program"),
        ("\ufeff" + OF_UNSLOTH.replace("\n", "\r\n"), "a Python program"),
        (_notebook([], []), "a notebook without outputs"),
        (_notebook(), "a notebook without outputs"),
    ],
)
@pytest.mark.parametrize("command", ["check", "parse"])
def test_program_text_is_bad_input_that_says_what_it_is(
    command: str, text: str, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Exit 2 with one line, where it was a failed load."""
    file = tmp_path / "load.py"
    file.write_text(text, encoding="utf-8")
    assert cli.run([command, str(file)]) == 2
    assert f"{file}: is {kind}, and no log; run it, and give what it prints" in only_error(capsys)


@pytest.mark.parametrize("path", thinned(sorted((ROOT / "src").rglob("*/[a-z]*.py"))), ids=lambda path: path.stem)
def test_modules_are_programs(path: Path):
    """Modules of our own, some of which hold every word of an end, are told from logs."""
    assert program_kind(path) == "a Python program" or len(path.read_text().splitlines()) < 30


@pytest.mark.parametrize(
    "text",
    [
        "from vllm import LLM\nllm = LLM('m')\nKilled\n",
        "import unsloth\nValueError: bad\n",
        "import unsloth\ntorch.OutOfMemoryError: memory\n",
        f"import unsloth\n{(RUNS / 't4_llama31-8b_reference.txt').read_text(encoding='utf-8')}",
        _notebook([], [{"output_type": "stream", "name": "stdout", "text": ["Killed\n"]}]),
        "Killed\n",
        "import unsloth\n" + "(" * 500,
        "import unsloth\n\0",
        '{"nbformat": 4, "cells": 3}',
        '{"nbformat": ' + "[" * 20_000,
        "import unsloth\n" + "x = 1\n" * (MAX_PROGRAM_BYTES // 6),
        '{"nbformat": 4, "cells": []}' + " " * MAX_NOTEBOOK_BYTES,
    ],
)
def test_what_may_be_output_is_no_program(text: str, tmp_path: Path):
    """Program text above what it printed, a saved notebook with outputs, and what is too large or damaged are read as before."""
    file = tmp_path / "log"
    file.write_text(text, encoding="utf-8")
    assert program_kind(file) is None


def test_an_end_below_pasted_program_text_counts(tmp_path: Path):
    """What a terminal shows is a log, though its beginning was typed."""
    file = tmp_path / "log"
    file.write_text("from vllm import LLM\nllm = LLM('m')\nKilled\n", encoding="utf-8")
    assert parse_log(file).outcome is Outcome.FAILED
