"""A training of 8B that was killed and resumed, exported, and served on a real GPU: the adapter's answer is not the base's."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gpu import trainings
from tests.gpu.kept import keep, keep_figures
from tests.gpu.servers import COMMAND, Serving, assert_ends_in_order, assert_passes, measure, server_arguments, started
from tests.gpu.test_gpu_load import has_gpu  # noqa: F401  # in words that pytest evaluates
from tests.gpu.trainings import Training
from tests.ports import free_port

NAME = "trained"
QUESTION = "What is the KV cache?"

pytestmark = trainings.MARKS


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("round-trip")


@pytest.fixture(scope="module")
def exported(folder: Path, resumed: Training) -> Path:
    """The adapters of the resumed training, proven."""
    assert resumed.exit_code == 0, resumed.failures
    return trainings.exported(resumed.folder, folder, NAME)


@pytest.fixture(scope="module")
def serving(folder: Path, exported: Path) -> Iterator[Serving]:
    port = free_port()
    with started([*COMMAND, NAME, *server_arguments(port)], port, folder, "serve-trained") as found:
        keep(exported / "proof.json", "serve-trained")
        yield found


def test_its_start_passes(serving: Serving):
    """Each figure agrees with the earlier prediction, including the rows and slots of one adapter."""
    assert_passes(serving)


def test_the_adapter_changes_the_answer(serving: Serving):
    """The same greedy chat, asked with and without the adapter."""
    names = serving.models()
    assert names[1:] == [NAME]
    request = {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": 32, "temperature": 0}
    answers = {name: serving.ask_json("/v1/chat/completions", {**request, "model": name}) for name in names}
    keep_figures("serve-trained/answers", {name: answer for name, (_, answer) in answers.items()})
    assert [status for status, _ in answers.values()] == [200, 200]
    texts = [answer["choices"][0]["message"]["content"] for _, answer in answers.values()]
    assert texts[0] != texts[1]


def test_an_openai_client_is_answered(serving: Serving):
    """With and without the adapter, one request at a time and 64 at once; the figures are kept."""
    found = measure(serving, serving.models(), "serve-trained")
    assert all(each["alone_tokens_per_s"] > 0 for each in found.values())


def test_a_stream_comes_to_its_end_after_sigterm(serving: Serving):
    """The last test of this server: all tokens arrive, the exit code is 0 after a pass, and the card's memory is free again."""
    assert_ends_in_order(serving, NAME)
    assert serving.process.returncode == 0
