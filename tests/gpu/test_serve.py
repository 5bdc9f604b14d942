"""vLLM's own server, used as loadcheck uses it: its parser accepts every argument, its app requires the key on each route, its launcher shuts
down cleanly. Needs the stack, but no GPU."""

import http.client
import json
import os
import signal
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from loadcheck.stacks.plain_vllm.gate import GRACE
from tests.conftest import ROOT
from tests.gpu.test_gpu_load import PYTHON, VENV
from tests.ports import free_port
from tests.test_export import _training

KEY = "a-key-that-nobody-guesses"
ROUTES = ("/health", "/ping", "/v1/models", "/tokenize", "/metrics", "/version", "/loadcheck", "/docs")
ASK_ROUTES = """
import asyncio, json, sys
from pathlib import Path
from loadcheck.serving.request import resolve_request
from loadcheck.stacks.serving import Served, argv
found = resolve_request("run", [("sql", Path("run"))], {"max_num_seqs": 16, "chunked_prefill": "off"})
words = argv(Served(found.plan, Path("base"), found.adapters, found.rank, "127.0.0.1", 8000))
from vllm.utils import FlexibleArgumentParser
from vllm.entrypoints.openai.api_server import build_app
from vllm.entrypoints.openai.cli_args import make_arg_parser, validate_parsed_serve_args
import httpx
args = make_arg_parser(FlexibleArgumentParser()).parse_args(words)
validate_parsed_serve_args(args)
app = build_app(args)
async def ask(path, headers):
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        return (await client.get(path, headers=headers)).status_code
async def main():
    key = {"Authorization": "Bearer " + sys.argv[1]}
    codes = {path: [await ask(path, {}), await ask(path, key)] for path in sys.argv[2:]}
    names = [[module.name, module.path] for module in args.lora_modules]
    print("\\n" + json.dumps({"codes": codes, "names": names, "rank": args.max_lora_rank, "quantization": args.quantization,
                             "key": args.api_key, "origins": args.allowed_origins, "chunked": args.enable_chunked_prefill}))
asyncio.run(main())
"""

SHUTDOWN = """
import asyncio, contextlib, multiprocessing, signal, sys, time
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from vllm.entrypoints.openai import api_server
from loadcheck.stacks.plain_vllm import server

def engine(pipe):
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for number in range(pipe.recv()):
        time.sleep(0.1)
        pipe.send(number)
    time.sleep(60)

class Client:
    async def get_model_config(self):
        return None

@contextlib.asynccontextmanager
async def engine_client(_args):
    global pipe
    context = multiprocessing.get_context("fork")
    pipe, far = context.Pipe()
    process = context.Process(target=engine, args=(far,))
    process.start()
    try:
        yield Client()
    finally:
        print("the engine lived:", process.is_alive(), flush=True)
        process.terminate()
        process.join(4)

async def tokens(number):
    pipe.send(number)
    for _ in range(number):
        yield f"token {await asyncio.to_thread(pipe.recv)}\\n"
    print("the stream is whole", flush=True)

def build_app(_args):
    app = FastAPI()
    app.get("/{number}")(lambda number: StreamingResponse(tokens(int(number))))
    return app

async def no_state(*_):
    pass

api_server.build_async_engine_client, api_server.build_app, api_server.init_app_state = engine_client, build_app, no_state
server.main()
print("ended in order", flush=True)
"""

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.xdist_group("real loads"),
    pytest.mark.skipif(not VENV.exists(), reason=".venv/gpu is not installed"),
]


SPAWN_ENGINE = """
import multiprocessing, runpy, sys
from vllm.entrypoints.openai import api_server
async def run_server(args, **more):
    code = "import torch.distributed as found; print(found.init_process_group.__qualname__, flush=True)"
    engine = multiprocessing.get_context("spawn").Process(target=exec, args=(code,))
    engine.start()
    engine.join()
api_server.run_server = run_server
sys.argv = ["server", "--model", "x"]
runpy.run_module("loadcheck.stacks.plain_vllm.server", run_name="__main__", alter_sys=True)
"""


def test_the_engine_of_a_server_opens_no_port(tmp_path: Path):
    """vLLM spawns the engine (vllm/entrypoints/openai/api_server.py:193); torch's store is in memory there, as in a load."""
    environment = {**os.environ, "VLLM_NO_USAGE_STATS": "1", GRACE: "1"}
    completed = subprocess.run(
        [PYTHON, "-c", SPAWN_ENGINE], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert completed.stdout.splitlines()[-1] == "keep_store_in_process.<locals>.alone"


def test_the_server_takes_our_arguments_and_every_route_asks_for_the_key(tmp_path: Path):
    """Two named adapters, no key among the arguments. With the key every route answers; without it only /health and /ping do."""
    _training(tmp_path / "run")
    (tmp_path / "verdict.json").write_text('{"verdict": "pass"}')
    env = {**os.environ, "VLLM_API_KEY": KEY, "LOADCHECK_SERVE_VERDICT": "verdict.json", "VLLM_NO_USAGE_STATS": "1"}
    completed = subprocess.run(
        [PYTHON, "-c", ASK_ROUTES, KEY, *ROUTES],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        check=True,
        timeout=1200,
    )
    found = json.loads(completed.stdout.strip().splitlines()[-1])
    adapter = str(tmp_path / "run" / "adapter")
    assert found["names"] == [["r2", adapter], ["sql", adapter]]
    assert (found["rank"], found["quantization"], found["key"]) == (8, "bitsandbytes", None)
    assert (found["origins"], found["chunked"]) == ([], False)
    without, with_key = ({path: codes[at] for path, codes in found["codes"].items()} for at in (0, 1))
    assert {path for path, code in without.items() if code != 401} == {"/health", "/ping"}
    assert 401 not in with_key.values() and with_key["/loadcheck"] == 200 and with_key["/docs"] == 404


@pytest.mark.parametrize(("num_tokens", "is_whole"), [(15, True), (100, False)])
def test_vllm_s_launcher_ends_streams_first_then_the_engine(num_tokens: int, is_whole: bool):
    """SIGTERM during a stream: it completes, or is cut after its grace (3 s), while the engine still runs; then the engine ends: exit 0."""
    port = free_port()
    env = {
        **os.environ,
        "LOADCHECK_SERVE_GRACE_S": "60" if is_whole else "3",
        "VLLM_NO_USAGE_STATS": "1",
        "PYTHONPATH": str(ROOT / "src"),
    }
    with subprocess.Popen([PYTHON, "-c", SHUTDOWN, "--host", "127.0.0.1", "--port", str(port)], env=env, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as server:  # fmt: skip
        try:
            lines = []
            for line in server.stdout:
                lines.append(line)
                if "Uvicorn running" in line:
                    break
            received = _stream_and_end(server, port, num_tokens)
            lines += server.stdout
        finally:
            server.kill()
    log = "".join(lines)
    assert (len(received) == num_tokens) is is_whole, log
    ordered = [*(["the stream is whole"] if is_whole else []), "the engine lived: True", "ended in order"]
    assert [line for line in log.splitlines() if line in {*ordered, "the stream is whole"}] == ordered
    assert server.returncode == 0


def _stream_and_end(server: subprocess.Popen[str], port: int, num_tokens: int) -> list[bytes]:
    """The lines of a stream; the server gets SIGTERM after the first."""
    received = []
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=120)) as connection:
        connection.request("GET", f"/{num_tokens}")
        with closing(connection.getresponse()) as answer:
            while line := _line(answer):
                received.append(line)
                if len(received) == 1:
                    server.send_signal(signal.SIGTERM)
    return received


def _line(answer: http.client.HTTPResponse) -> bytes:
    """The next line; empty if the connection was cut."""
    try:
        return answer.readline()
    except (http.client.HTTPException, OSError):
        return b""
