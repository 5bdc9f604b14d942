"""A merged and exported training, served on a real GPU under its folder's name."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.conftest import ROOT
from tests.gpu import trainings
from tests.gpu.kept import keep
from tests.gpu.servers import COMMAND, Serving, assert_ends_in_order, assert_passes, measure, server_arguments, started
from tests.gpu.test_gpu_load import has_gpu  # noqa: F401  # in words that pytest evaluates
from tests.gpu.trainings import Training
from tests.ports import free_port

NAME = "merged"

pytestmark = trainings.MARKS


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """The 16 GB of the merged model are on the checkout's disk, as /tmp may be in memory."""
    parent = ROOT / "build" / "test-exports"
    parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=parent) as found:
        yield Path(found)


@pytest.fixture(scope="module")
def merged(folder: Path, whole: Training) -> Path:
    """The export, verified."""
    assert whole.exit_code == 0, whole.failures
    return trainings.exported(whole.folder, folder, NAME, "--merged")


@pytest.fixture(scope="module")
def serving(folder: Path, merged: Path) -> Iterator[Serving]:
    port = free_port()
    with started([*COMMAND, NAME, *server_arguments(port)], port, folder, "serve-merged") as found:
        keep(merged / "proof.json", "serve-merged")
        yield found


def test_its_start_passes(serving: Serving):
    """Each figure agrees with the earlier prediction, in 16 bits and without slots."""
    assert_passes(serving)


def test_it_is_asked_by_the_name_of_its_folder(serving: Serving):
    """It is the only model served; its base's name gives 404."""
    assert serving.models() == [NAME]
    request = {"prompt": "The KV cache", "max_tokens": 4, "temperature": 0}
    status, answer = serving.ask_json("/v1/completions", {**request, "model": NAME})
    assert (status, answer["usage"]["completion_tokens"]) == (200, 4)
    assert serving.ask_json("/v1/completions", {**request, "model": "llama-3.1-8b-instruct"})[0] == 404


def test_an_openai_client_is_answered(serving: Serving):
    """One request at a time and 64 at once; the figures are kept."""
    assert measure(serving, [NAME], "serve-merged")[NAME]["alone_tokens_per_s"] > 0


def test_a_stream_comes_to_its_end_after_sigterm(serving: Serving):
    """The last test of this server: all tokens arrive, the exit code is 0 after a pass, and the card's memory is free again."""
    assert_ends_in_order(serving, NAME)
    assert serving.process.returncode == 0
