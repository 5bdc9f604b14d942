"""vLLM's own server on a real GPU, started as a user starts it: 8B in 4-bit with two adapters passes, answers, and completes streams at shutdown."""

from collections.abc import Iterator

import pytest

from tests.gpu.servers import Serving, assert_ends_in_order, assert_passes, measure, serving_adapters
from tests.gpu.test_gpu_load import has_gpu  # noqa: F401  # in words that pytest evaluates

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.xdist_group("real loads"),
    pytest.mark.skipif("not has_gpu()", reason="this machine has no usable NVIDIA GPU"),
]


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serving_adapters(tmp_path_factory.mktemp("serving")) as found:
        yield found


def test_its_start_passes(serving: Serving):
    """Each figure agrees with the earlier prediction, including the rows and slots of two adapters."""
    assert_passes(serving)


def test_the_base_and_its_adapters_answer(serving: Serving):
    """Each by its name. Adapters of zeros answer like the base, and an unknown name gives 404."""
    names = serving.models()
    assert names[1:] == ["one", "two"]
    request = {"prompt": "The KV cache", "max_tokens": 4, "temperature": 0}
    answers = [serving.ask_json("/v1/completions", {**request, "model": name}) for name in names]
    assert [status for status, _ in answers] == [200, 200, 200]
    assert len({answer["choices"][0]["text"] for _, answer in answers}) == 1
    assert serving.ask_json("/v1/completions", {**request, "model": "three"})[0] == 404


def test_an_openai_client_is_answered(serving: Serving):
    """By the base and by each adapter, one request at a time and 64 at once; the figures are kept."""
    found = measure(serving, serving.models(), "serve-adapters")
    assert all(each["alone_tokens_per_s"] > 0 for each in found.values())


def test_a_stream_comes_to_its_end_after_sigterm(serving: Serving):
    """The last test of this server: all tokens arrive, the exit code is 0 after a pass, and the card's memory is free again."""
    assert_ends_in_order(serving, "two")
    assert serving.process.returncode == 0
