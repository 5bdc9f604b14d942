"""vLLM's own server on a real GPU, as a user starts it: 8B in 4-bit with two adapters passes, answers, and ends no stream when it is ended."""

import http.client
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from loadcheck.exporting.source import ADAPTER, CONFIG
from loadcheck.plan import make_plan, plan_to_json
from loadcheck.runs.checkpoints import publish
from loadcheck.specs.files import changed, to_data, to_toml
from loadcheck.specs.profile import Profile, load_profile
from loadcheck.specs.shape import ModelConfig
from loadcheck.units import GIB
from tests.conftest import ROOT
from tests.gpu.test_gpu_load import PROFILE, PYTHON, free_bytes, has_gpu  # noqa: F401  # in words that pytest evaluates
from tests.integration.test_serve import _free_port
from tests.test_export import _training

KEY = "a-key-that-nobody-guesses"
RANK = 16
TRAINED = {"q_proj": "self_attn", "down_proj": "mlp"}
NUM_TOKENS = 500

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.xdist_group("real loads"),
    pytest.mark.skipif("not has_gpu()", reason="this machine has no usable NVIDIA GPU"),
]


def write_run(run: Path, profile: Profile) -> None:
    """The folder of a training of this profile's model, whose adapters change nothing: all their weights are 0."""
    plan = make_plan(profile)
    _training(run)
    (run / "plan.json").write_text(json.dumps(plan_to_json(plan)))
    shutil.rmtree(run / "adapter")
    written = run / "written"
    written.mkdir()
    said = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": RANK,
        "lora_alpha": RANK,
        "bias": "none",
        "target_modules": [*TRAINED],
    }
    (written / CONFIG).write_text(json.dumps(said))
    (written / ADAPTER).write_bytes(_zeros(plan.config))
    publish(written, run / "adapter")


def _zeros(config: ModelConfig) -> bytes:
    """A file of safetensors with A and B of each trained linear, as peft names them."""
    header: dict[str, Any] = {}
    end = 0
    for layer in range(config.num_hidden_layers):
        for name, parent in TRAINED.items():
            num_in, num_out = config.linears[name]
            for part, shape in (("A", [RANK, num_in]), ("B", [num_out, RANK])):
                begin, end = end, end + 2 * shape[0] * shape[1]
                key = f"base_model.model.model.layers.{layer}.{parent}.{name}.lora_{part}.weight"
                header[key] = {"dtype": "F16", "shape": shape, "data_offsets": [begin, end]}
    said = json.dumps(header).encode("ascii")
    return len(said).to_bytes(8, "little") + said + bytes(end)


@dataclass
class Serving:
    """A server that answers."""

    process: subprocess.Popen[str]
    port: int

    def ask(self, path: str, body: dict[str, Any] | None = None) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
        connection.request("GET" if body is None else "POST", path, None if body is None else json.dumps(body), headers)
        return connection.getresponse()

    def said(self, path: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
        with closing(self.ask(path, body)) as answer:
            return answer.status, json.loads(answer.read())


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder, port = tmp_path_factory.mktemp("serving"), _free_port()
    profile = changed(load_profile(PROFILE), {"weights": "synthetic"})
    write_run(folder / "run", profile)
    (folder / "served.toml").write_text(to_toml(to_data(profile)))
    # Gigabytes of weights are made once for all sessions, on the checkout's disk: /tmp may be memory.
    env = {**os.environ, "LOADCHECK_CACHE": str(ROOT / "build" / "test-weights"), "LOADCHECK_API_KEY": KEY}
    command = [
        PYTHON, "-m", "loadcheck", "serve", "served.toml", "--adapter", "one=run", "--adapter", "two=run", "--port", str(port),
        "--max-num-seqs", "64", "--max-seq-length", "2048", "--run-dir", "served",
    ]  # fmt: skip
    with (folder / "said.txt").open("w") as said:
        process = subprocess.Popen(command, cwd=folder, env=env, stdout=said, stderr=subprocess.STDOUT, text=True)
    found = Serving(process, port)
    try:
        _wait(found, folder)
        yield found
    finally:
        process.kill()
        process.wait()


def _wait(serving: Serving, folder: Path) -> None:
    """Until its start is judged."""
    deadline_s = time.monotonic() + 400
    while time.monotonic() < deadline_s and serving.process.poll() is None:
        time.sleep(0.5)
        try:
            if serving.said("/loadcheck")[0] == http.client.OK:
                return
        except OSError:
            continue
    raise AssertionError((folder / "said.txt").read_text())


def test_its_start_passes(serving: Serving):
    """Each figure as it was predicted before, with the rows and slots of two adapters."""
    _, verdict = serving.said("/loadcheck")
    failed = [f"{each['figure']}: {each['why']}" for each in verdict["findings"] if each["status"] == "fail"]
    assert verdict["verdict"] == "pass", failed
    compared = {each["figure"] for each in verdict["findings"] if each["check"] == "model"}
    assert compared >= {"weights_gib", "activation_peak_gib", "kv_cache_gib", "num_gpu_blocks", "cuda_graph_gib"}


def test_the_base_and_its_adapters_answer(serving: Serving):
    """By name; adapters of zeros answer as the base does, and another name is not there."""
    status, models = serving.said("/v1/models")
    names = [each["id"] for each in models["data"]]
    assert (status, names[1:]) == (200, ["one", "two"])
    asked = {"prompt": "The KV cache", "max_tokens": 4, "temperature": 0}
    answers = [serving.said("/v1/completions", {**asked, "model": name}) for name in names]
    assert [status for status, _ in answers] == [200, 200, 200]
    assert len({answer["choices"][0]["text"] for _, answer in answers}) == 1
    assert serving.said("/v1/completions", {**asked, "model": "three"})[0] == 404


def test_a_stream_comes_to_its_end_after_sigterm(serving: Serving):
    """The last test of this server: all tokens come, exit code 0 follows the verdict, and the card is free again."""
    body = {"model": "two", "prompt": "a long one", "max_tokens": NUM_TOKENS, "temperature": 0, "ignore_eos": True, "stream": True,
            "stream_options": {"include_usage": True}}  # fmt: skip
    with closing(serving.ask("/v1/completions", body)) as answer:
        lines = [answer.readline()]
        serving.process.send_signal(signal.SIGTERM)
        lines += answer
    *chunks, last = [line.removeprefix(b"data: ").strip() for line in lines if line.startswith(b"data: ")]
    assert last == b"[DONE]"
    assert json.loads(chunks[-1])["usage"]["completion_tokens"] == NUM_TOKENS
    assert serving.process.wait(timeout=60) == 0
    assert free_bytes() > 10 * GIB
