"""vLLM's own server is asked as we ask it: its parser takes every argument, its app asks for the key on each route. No GPU is needed, but the stack."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.gpu.test_gpu_load import PYTHON, VENV
from tests.test_export import _training

KEY = "a-key-that-nobody-guesses"
PATHS = ("/health", "/ping", "/v1/models", "/tokenize", "/metrics", "/version", "/loadcheck", "/docs")
SCRIPT = """
import asyncio, json, sys
from pathlib import Path
from loadcheck.serving.asked import asked
from loadcheck.stacks.serving import Served, argv
found = asked("run", [("sql", Path("run"))], {"max_num_seqs": 16, "chunked_prefill": "off"})
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

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.xdist_group("real loads"),
    pytest.mark.skipif(not VENV.exists(), reason=".venv/gpu is not installed"),
]


def test_the_server_takes_our_arguments_and_every_route_asks_for_the_key(tmp_path: Path):
    """Two adapters by name, no key among the arguments; with the key a route is reached, without it only whether the server lives."""
    _training(tmp_path / "run")
    (tmp_path / "verdict.json").write_text('{"verdict": "pass"}')
    env = {**os.environ, "VLLM_API_KEY": KEY, "LOADCHECK_SERVE_VERDICT": "verdict.json", "VLLM_NO_USAGE_STATS": "1"}
    said = subprocess.run(
        [PYTHON, "-c", SCRIPT, KEY, *PATHS],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    found = json.loads(said.stdout.strip().splitlines()[-1])
    adapter = str(tmp_path / "run" / "adapter")
    assert found["names"] == [["r2", adapter], ["sql", adapter]]
    assert (found["rank"], found["quantization"], found["key"]) == (8, "bitsandbytes", None)
    assert (found["origins"], found["chunked"]) == ([], False)
    without, with_key = ({path: codes[at] for path, codes in found["codes"].items()} for at in (0, 1))
    assert {path for path, code in without.items() if code != 401} == {"/health", "/ping"}
    assert 401 not in with_key.values() and with_key["/loadcheck"] == 200 and with_key["/docs"] == 404
