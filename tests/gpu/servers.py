"""Servers, started as a user starts them, and the checks of each: the verdict on its start, an OpenAI client's figures, a clean shutdown."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadcheck.exporting.source import ADAPTER, CONFIG
from loadcheck.plan import make_plan, plan_to_json
from loadcheck.runs.checkpoints import publish
from loadcheck.specs.files import changed, to_data, to_toml
from loadcheck.specs.profile import Profile, load_profile
from loadcheck.specs.shape import ModelConfig
from loadcheck.units import GIB
from tests.conftest import ROOT
from tests.gpu.kept import keep, keep_figures
from tests.gpu.test_gpu_load import PROFILE, PYTHON, free_bytes
from tests.ports import free_port
from tests.test_export import _training

COMMAND = (PYTHON, "-m", "loadcheck", "serve")
KEY = "a-key-that-nobody-guesses"
SETTINGS = ("--max-num-seqs", "64", "--max-seq-length", "2048")
"""The same as in the kept logs of tests/served."""
RANK = 16
TRAINED = {"q_proj": "self_attn", "down_proj": "mlp"}
NUM_TOKENS = 500
START_S, END_S = 300, 60
COMPARED = {"weights_gib", "activation_peak_gib", "kv_cache_gib", "num_gpu_blocks", "cuda_graph_gib"}


# ------------------------------------------------------------------------------------------------------------------ served model


def write_profile_and_run(folder: Path) -> None:
    """Write `served.toml`, the reference with synthetic weights, and `run`, a training of its model."""
    profile = changed(load_profile(PROFILE), {"weights": "synthetic"})
    (folder / "served.toml").write_text(to_toml(to_data(profile)))
    _write_run(folder / "run", profile)


def _write_run(run: Path, profile: Profile) -> None:
    """The run folder of a training of this profile's model. Its adapters change nothing: all their weights are 0."""
    plan = make_plan(profile)
    _training(run)
    (run / "plan.json").write_text(json.dumps(plan_to_json(plan)))
    shutil.rmtree(run / "adapter")
    written = run / "written"
    written.mkdir()
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": RANK, "bias": "none", "target_modules": [*TRAINED]}  # fmt: skip
    (written / CONFIG).write_text(json.dumps(config))
    (written / ADAPTER).write_bytes(_zeros(plan.config))
    publish(written, run / "adapter")


def _zeros(config: ModelConfig) -> bytes:
    """A safetensors file with A and B of each trained linear layer, named as peft names them."""
    header: dict[str, Any] = {}
    end = 0
    for layer in range(config.num_hidden_layers):
        for name, parent in TRAINED.items():
            num_in, num_out = config.linears[name]
            for part, shape in (("A", [RANK, num_in]), ("B", [num_out, RANK])):
                begin, end = end, end + 2 * shape[0] * shape[1]
                key = f"base_model.model.model.layers.{layer}.{parent}.{name}.lora_{part}.weight"
                header[key] = {"dtype": "F16", "shape": shape, "data_offsets": [begin, end]}
    encoded = json.dumps(header).encode("ascii")
    return len(encoded).to_bytes(8, "little") + encoded + bytes(end)


# ------------------------------------------------------------------------------------------------------------------- the server


@dataclass
class Serving:
    """A server that answers; `free_before_bytes` is the card's free memory before it was started."""

    process: subprocess.Popen[str]
    port: int
    free_before_bytes: int

    @contextmanager
    def ask(self, path: str, body: dict[str, Any] | None = None) -> Iterator[http.client.HTTPResponse]:
        headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)) as connection:
            method, payload = ("GET", None) if body is None else ("POST", json.dumps(body))
            connection.request(method, path, payload, headers)
            with closing(connection.getresponse()) as answer:
                yield answer

    def ask_json(self, path: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
        with self.ask(path, body) as answer:
            return answer.status, json.loads(answer.read())

    def models(self) -> list[str]:
        status, models = self.ask_json("/v1/models")
        assert status == http.client.OK
        return [each["id"] for each in models["data"]]


@contextmanager
def started(command: Sequence[str], port: int, cwd: Path, name: str, **environment: str) -> Iterator[Serving]:
    """Start a server and wait for the verdict on its start; its folder is `cwd`/served. Its output is kept under this name."""
    # Gigabytes of weights are made once for all sessions, on the checkout's disk, as /tmp may be in memory.
    variables = {"LOADCHECK_CACHE": str(ROOT / "build" / "test-weights"), "LOADCHECK_API_KEY": KEY}
    free_before_bytes, begin_s, output = free_bytes(), time.monotonic(), cwd / "said.txt"
    with output.open("w") as stdout:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env={**os.environ, **variables, **environment},
            stdout=stdout,
            stderr=subprocess.STDOUT,
            text=True,
        )
    found = Serving(process, port, free_before_bytes)
    try:
        _wait(found, output)
        keep_figures(f"{name}/start", {"judged_after_s": round(time.monotonic() - begin_s, 1)})
        yield found
    finally:
        _end(process)
        keep(output, name)
        keep(cwd / "served", name)


def _end(process: subprocess.Popen[str]) -> None:
    """End a server that a failed test left. SIGTERM first: if make were killed, its children would go on."""
    process.terminate()
    try:
        process.wait(END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _wait(serving: Serving, output: Path) -> None:
    deadline_s = time.monotonic() + START_S
    while time.monotonic() < deadline_s and serving.process.poll() is None:
        time.sleep(0.5)
        try:
            if serving.ask_json("/loadcheck")[0] == http.client.OK:
                return
        except (OSError, http.client.HTTPException):
            continue
    raise AssertionError(output.read_text())


def server_arguments(port: int) -> tuple[str, ...]:
    return ("--port", str(port), *SETTINGS, "--run-dir", "served")


@contextmanager
def serving_adapters(folder: Path) -> Iterator[Serving]:
    """Serve the reference's model with two adapters."""
    write_profile_and_run(folder)
    port = free_port()
    command = [*COMMAND, "served.toml", "--adapter", "one=run", "--adapter", "two=run", *server_arguments(port)]
    with started(command, port, folder, "serve-adapters") as found:
        yield found


# ----------------------------------------------------------------------------------------------------------------------- checks


def assert_passes(serving: Serving) -> None:
    """The verdict on its start passes, compared with the earlier prediction."""
    _, verdict = serving.ask_json("/loadcheck")
    failed = [f"{each['figure']}: {each['why']}" for each in verdict["findings"] if each["status"] == "fail"]
    assert verdict["verdict"] == "pass", failed
    assert {each["figure"] for each in verdict["findings"] if each["check"] == "model"} >= COMPARED


CLIENT = """
import asyncio, json, statistics, sys, time
import httpx
from openai import AsyncOpenAI, DefaultAsyncHttpxClient, NotFoundError

url, key, at_once, tokens, names = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5:]

async def ask(client, name, number):
    begin, first, count = time.perf_counter(), None, 0
    stream = await client.completions.create(
        model=name, prompt=f"Number {number} of many: the KV cache", max_tokens=tokens, temperature=0, stream=True,
        stream_options={"include_usage": True}, extra_body={"ignore_eos": True})
    async for chunk in stream:
        if chunk.choices and first is None:
            first = time.perf_counter() - begin
        count = chunk.usage.completion_tokens if chunk.usage else count
    assert count == tokens, (name, count)
    return first, time.perf_counter() - begin

async def measure(client, name):
    await ask(client, name, 0)
    alone = [await ask(client, name, number) for number in range(1, 11)]
    begin = time.perf_counter()
    together = await asyncio.gather(*(ask(client, name, number) for number in range(at_once)))
    first = sorted(each for each, _ in alone)
    return {
        "first_token_ms": {"median": 1000 * statistics.median(first), "least": 1000 * first[0], "most": 1000 * first[-1]},
        "alone_tokens_per_s": tokens * len(alone) / sum(took for _, took in alone),
        f"of_{at_once}_tokens_per_s": tokens * len(together) / (time.perf_counter() - begin),
        f"of_{at_once}_first_token_ms": {"median": 1000 * statistics.median(each for each, _ in together)},
    }

async def main():
    # The server closes connections that are idle for 5 s (vllm/entrypoints/openai/api_server.py:87): none is reused that late.
    limits = httpx.Limits(max_connections=1000, keepalive_expiry=1)
    http = DefaultAsyncHttpxClient(trust_env=False, limits=limits)
    async with AsyncOpenAI(base_url=url, api_key=key, max_retries=0, http_client=http) as client:
        found = {name: await measure(client, name) for name in names}
        chat = await client.chat.completions.create(
            model=names[0], messages=[{"role": "user", "content": "What is the KV cache?"}], max_tokens=8, temperature=0)
        assert chat.usage.completion_tokens >= 1
        try:
            await client.completions.create(model="nobody", prompt="x", max_tokens=1)
        except NotFoundError:
            print(json.dumps(found))

asyncio.run(main())
"""
AT_ONCE, TOKENS = 64, 64


def measure(serving: Serving, names: Sequence[str], kept: str) -> dict[str, Any]:
    """First token and throughput, measured by OpenAI's own client: ten requests in sequence, then 64 at once. An unknown model name is refused."""
    command = [PYTHON, "-c", CLIENT, f"http://127.0.0.1:{serving.port}/v1", KEY, str(AT_ONCE), str(TOKENS), *names]
    client = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert client.returncode == 0 and client.stdout, client.stderr[-3000:]
    found: dict[str, Any] = json.loads(client.stdout.splitlines()[-1])
    keep_figures(f"{kept}/asked", found)
    return found


def assert_ends_in_order(serving: Serving, name: str) -> None:
    """SIGTERM during a stream: all its tokens arrive, the verdict decides the exit code (0 for a pass), and the card's memory is free again."""
    body = {"model": name, "prompt": "a long one", "max_tokens": NUM_TOKENS, "temperature": 0, "ignore_eos": True, "stream": True,
            "stream_options": {"include_usage": True}}  # fmt: skip
    with serving.ask("/v1/completions", body) as answer:
        lines = [answer.readline()]
        serving.process.send_signal(signal.SIGTERM)
        lines += answer
    *chunks, last = [line.removeprefix(b"data: ").strip() for line in lines if line.startswith(b"data: ")]
    assert last == b"[DONE]"
    assert json.loads(chunks[-1])["usage"]["completion_tokens"] == NUM_TOKENS
    serving.process.wait(timeout=END_S)
    assert _is_free(serving.free_before_bytes - GIB // 8)


def _is_free(wanted_bytes: int) -> bool:
    """Whether the card has this much free memory within 10 seconds: the driver takes a while to clean up after a process."""
    deadline_s = time.monotonic() + 10
    while free_bytes() < wanted_bytes and time.monotonic() < deadline_s:
        time.sleep(0.5)
    return free_bytes() >= wanted_bytes
