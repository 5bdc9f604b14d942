"""Runs every GPU test without a GPU, on a simulated machine with two (stand_in/), as a rented card is too expensive for finding typos.

It runs each test's own code, loadcheck's commands, vLLM's real server with an engine that has no model, and trainings of the small
model on the CPU. It proves nothing about a card.
"""

import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.gpu.kept import IS_KEPT
from tests.gpu.stand_in.environment import checkout
from tests.gpu.test_gpu_load import VENV, has_gpu  # noqa: F401  # in words that pytest evaluates

ENVIRONMENTS = ("cpu", "dev", "gpu")
LIMIT_S = 1700  # on a busy machine; two minutes on two idle cores

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.xdist_group("real loads"),
    pytest.mark.skipif("has_gpu()", reason="the tests themselves run here"),
    pytest.mark.skipif(
        not all((ROOT / ".venv" / name / "bin" / "python").exists() for name in ENVIRONMENTS),
        reason="one of .venv/cpu, dev and gpu is not installed",
    ),
]


EXCLUDED = ("a_group_of_vllm", "the_edit_of_unsloth", "the_imports_of_a_load", "a_load_was_traced")
"""These examine the environment's own folder, or what an engine does besides printing."""


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rehearsal")
    for name in ("libcuda.so", "libcuda.so.1"):  # Triton looks for them
        (folder / name).touch()
    return checkout(ROOT, folder / "checkout", ENVIRONMENTS)


@pytest.mark.parametrize(
    ("groups", "kept"),
    [
        (
            ("load", "traced"),
            ["load-ahead/load.log", "traced/trace.json"],
        ),
        (("serve", "make"), ["serve-adapters/asked.json", "make-serve/said.txt"]),
        pytest.param(
            ("resume,trained,merged",),
            [
                "resume.json",
                "train-resumed/steps.jsonl",
                "serve-trained/answers.json",
                "serve-merged/asked.json",
                "export-merged.json",
            ],
            marks=pytest.mark.skipif(not IS_KEPT, reason="trains for minutes; LOADCHECK_KEEP=FOLDER enables it"),
        ),
        (("fleet",), ["fleet-of-2/results/fleet.json"]),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else "",
)
def test_what_is_to_run_on_a_gpu_runs(copied: Path, groups: tuple[str, ...], kept: list[str]):
    """Run each part by the command in tests/gpu/README.md, one card for each argument; the archive has the results that are to be kept."""
    folder, chosen = copied.parent / "-".join(groups), " and ".join(f"not {name}" for name in EXCLUDED)
    own = {
        name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST_")
    }  # the runs in it are no worker's
    environment = {
        **own, "TRITON_LIBCUDA_PATH": str(copied.parent), "PYTEST_PLUGINS": "tests.gpu.stand_in.plugin", "PYTEST_ADDOPTS": f"-k '{chosen}'",
    }  # fmt: skip
    command = [
        str(copied / ".venv/dev/bin/python"),
        str(copied / "scripts/gpu_tests.py"),
        str(folder),
        *groups,
        "--limit",
        str(LIMIT_S),
    ]
    completed = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=LIMIT_S + 60
    )
    assert completed.returncode == 0, completed.stdout[-6000:] + completed.stderr
    with tarfile.open(f"{folder}.tar.gz") as tar:
        assert {f"{folder.name}/{name}" for name in kept} <= set(tar.getnames())
