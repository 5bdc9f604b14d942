"""`make serve` on a real GPU: SIGTERM to make shuts the server down cleanly."""

from collections.abc import Iterator
from pathlib import Path
from shutil import which

import psutil
import pytest

from tests.conftest import ROOT
from tests.gpu.servers import (
    Serving,
    assert_ends_in_order,
    assert_passes,
    server_arguments,
    started,
    write_profile_and_run,
)
from tests.gpu.test_gpu_load import PYTHON, has_gpu  # noqa: F401  # in words that pytest evaluates
from tests.ports import free_port

PROGRAM = Path(".venv", "gpu", "bin", "loadcheck")
LINKED = ("Makefile", "env", "pyproject.toml", "scripts", "src")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.xdist_group("real loads"),
    pytest.mark.skipif("not has_gpu()", reason="this machine has no usable NVIDIA GPU"),
    pytest.mark.skipif(which("make") is None, reason="this machine has no make"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("make")


def _checkout(folder: Path) -> Path:
    """This checkout. If it is a copy, its program names a Python of another folder: then a folder of links, with a working program."""
    first = (ROOT / PROGRAM).read_text().partition("\n")[0]
    if Path(first.removeprefix("#!")).exists():
        return ROOT
    for name in LINKED:
        (folder / name).symlink_to(ROOT / name)
    program = folder / PROGRAM
    program.parent.mkdir(parents=True)
    program.write_text(f'#!/bin/sh\nexec {PYTHON} -m loadcheck "$@"\n')
    program.chmod(0o755)
    return folder


@pytest.fixture(scope="module")
def serving(folder: Path) -> Iterator[Serving]:
    """Uses the installed environment (a copied checkout would install it again); ENGINE is set, as scripts/engine needs nvidia-smi."""
    write_profile_and_run(folder)
    port = free_port()
    arguments = [
        "--adapter",
        f"one={folder}/run",
        "--adapter",
        f"two={folder}/run",
        *server_arguments(port)[:-1],
        f"{folder}/served",
    ]
    command = [
        "make", "-C", str(_checkout(folder)), "-o", ".venv/gpu/.complete", "ENGINE=gpu", "RUNTIME=local", "serve",
        f"RUN={folder}/served.toml", f"ARGS={' '.join(arguments)}",
    ]  # fmt: skip
    with started(command, port, folder, "make-serve") as found:
        yield found


def test_it_is_alive_and_its_start_passes(serving: Serving):
    """/health answers, and the verdict is the same as without make."""
    with serving.ask("/health") as answer:
        assert answer.status == 200
    assert_passes(serving)


def test_make_hands_sigterm_on(serving: Serving, folder: Path):
    """The stream is complete, no process is left, and make reports no error."""
    children = psutil.Process(serving.process.pid).children(recursive=True)
    assert children
    assert_ends_in_order(serving, "two")
    assert psutil.wait_procs(children, timeout=60)[1] == []
    assert "Error" not in (folder / "said.txt").read_text()
