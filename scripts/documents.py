"""Whether another commit gives the same output as this checkout, byte for byte, as it must after a refactoring.

    python scripts/documents.py REF              every document from both, and a diff of those that differ; exit 1 if any does
    python scripts/documents.py --write FOLDER   this checkout's alone, one file per command

A document is the output of one command, as text or with --json: predictions of every profile and model on every card, fits, lists, and what
is read and judged of every log and run folder in tests/. Commands run in this checkout's root, so that both read the same inputs by the same
names; data (env/) and code are each commit's own.
"""

from __future__ import annotations

import contextlib
import difflib
import io
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CARDS = ("T4", "L4", "A10G", "RTX4090", "V100-16GB", "A100-40GB", "A100-80GB", "H100", "H200", "B200")
MODELS = ("llama-3.2-3b-instruct", "mistral-7b-instruct-v0.3", "qwen2.5-1.5b-instruct", "qwen2.5-7b-instruct", "phi-4")
SETTINGS = (
    (), ("--max-lora-rank", "8"), ("--max-lora-rank", "64", "--lora-r", "16"), ("--max-seq-length", "4096"), ("--enforce-eager",),
    ("--load-in-16bit",), ("--conservativeness", "0.25"), ("--gpu-memory-utilization", "0.9"), ("--train-steps", "3"),
    ("--target-modules", "q_proj,v_proj"), ("--lora-dropout", "0.1"),
)  # fmt: skip
RAM = ("--ram-available-bytes", "64GiB")
SHOWN_LINES = 40
"""Lines of the diff of a document that differs."""


def commands() -> Iterator[tuple[str, ...]]:
    """Every command whose output is compared."""
    for as_json in ((), ("--json",)):
        yield ("list", *as_json)
        yield from ((*each, *as_json) for each in _predictions())
        for target in _targets():
            yield ("check", target, *as_json)
            yield ("parse", target, *as_json)
            if (ROOT / target).is_dir():
                yield ("report", target, *as_json)


def _predictions() -> Iterator[tuple[str, ...]]:
    for card in CARDS:
        yield from (("predict", "--gpu", card, *RAM, *settings) for settings in SETTINGS)
        yield from (("predict", "--gpu", card, *RAM, "--model", model) for model in MODELS)
        yield ("predict", "--gpu", card, *RAM, "--tree")
    yield ("predict", "smollm2-135m-cpu")
    for goal in ("length", "concurrency", "training"):
        yield from (("fit", "--gpu", card, *RAM, "--for", goal) for card in ("T4", "H100"))
    yield ("fit", "--gpu", "T4", *RAM, "--model", "phi-4", "--max-seq-length", "32768")
    yield ("predict", "--gpu-total-bytes", "24GiB", "--gpu-free-bytes", "23.5GiB", "--compute-capability", "8.9", *RAM)


def _targets() -> Iterator[str]:
    """Every log and run folder of the tests, as a path from the root."""
    for folder in ("tests/runs", "tests/reported", "tests/troubles"):
        for path in sorted((ROOT / folder).rglob("*")):
            if (path.is_dir() and (path / "run.json").is_file()) or (
                path.suffix in (".txt", ".log") and not (path.parent / "run.json").is_file()
            ):
                yield str(path.relative_to(ROOT))


def write(folder: Path) -> None:
    """Write every document into `folder`, with the code on sys.path."""
    with ProcessPoolExecutor() as pool:
        for command, text in zip(commands(), pool.map(_document, commands(), chunksize=16), strict=True):
            (folder / _file_name(command)).write_text(text, encoding="utf-8")


def _document(command: tuple[str, ...]) -> str:
    """The command's output and its exit code."""
    from loadcheck.cli import run

    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        code = run([*command])
    out.seek(0)
    return f"{out.read()}\nexit code {code}\n"


def _file_name(command: tuple[str, ...]) -> str:
    return re.sub(r"[^A-Za-z0-9.=-]+", "_", " ".join(command))[-200:] + ".txt"


def _written(source: Path, folder: Path) -> dict[str, str]:
    """The documents by name, with the code of `source`."""
    folder.mkdir()
    env = {**os.environ, "PYTHONPATH": str(source / "src"), "COLUMNS": "120", "NO_COLOR": "1"}
    subprocess.run([sys.executable, __file__, "--write", str(folder)], cwd=ROOT, env=env, check=True)
    return {path.name: path.read_text(encoding="utf-8") for path in sorted(folder.iterdir())}


def compare(ref: str) -> int:
    """How many documents differ between the commit `ref` and this checkout; each is shown as a diff."""
    with tempfile.TemporaryDirectory() as name:
        other = Path(name, "checkout")
        subprocess.run(["git", "-C", str(ROOT), "worktree", "add", "--quiet", "--detach", str(other), ref], check=True)
        try:
            before, after = _written(other, Path(name, "before")), _written(ROOT, Path(name, "after"))
        finally:
            subprocess.run(["git", "-C", str(ROOT), "worktree", "remove", "--force", str(other)], check=True)
    differ = [name for name in before if before[name] != after.get(name)]
    for each in differ:
        lines = difflib.unified_diff(
            before[each].splitlines(), after.get(each, "").splitlines(), ref, each, lineterm=""
        )
        print("\n".join([*lines][:SHOWN_LINES]))
    print(f"{len(before)} documents, {len(differ)} differ from {ref}")
    return len(differ)


if __name__ == "__main__":
    if sys.argv[1] == "--write":
        write(Path(sys.argv[2]))
    else:
        sys.exit(1 if compare(sys.argv[1]) else 0)
