"""Shared by the GPU tests: the card that they are pinned to, and the trainings that several of them examine."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from loadcheck.device import PIN
from tests.gpu import trainings
from tests.gpu.trainings import Training


@pytest.fixture(scope="package", autouse=True)
def pinned() -> Iterator[None]:
    """Use the GPU that LOADCHECK_GPU named when the tests were started, so that two sessions can run side by side."""
    with pytest.MonkeyPatch.context() as patch:
        if "TESTS_GPU" in os.environ:
            patch.setenv(PIN, os.environ["TESTS_GPU"])
        yield


@pytest.fixture(scope="package")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Training:
    """A training of 8B that was not interrupted."""
    folder: Path = tmp_path_factory.mktemp("whole") / "run"
    return trainings.trained(folder)


@pytest.fixture(scope="package")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> Training:
    """A training that was killed after its checkpoint, and resumed until its end."""
    folder: Path = tmp_path_factory.mktemp("resumed")
    assert trainings.killed(folder / "killed") == 1
    return trainings.resumed(folder / "killed", folder / "resumed")
