"""`loadcheck serve` as a user starts it, with a process that replays a kept server's log and answers /health."""

import asyncio
import json
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from loadcheck.cli import serve as of_cli
from loadcheck.cli.app import run as loadcheck
from loadcheck.device import GpuDevice
from loadcheck.errors import BadInput
from loadcheck.exporting.proof import PROOF
from loadcheck.exporting.source import ADAPTER
from loadcheck.plan import plan_from_json
from loadcheck.predict import Case, card_from_device
from loadcheck.runs.folder import RunFolder
from loadcheck.runs.sink import LogSink
from loadcheck.serving.key import MAX_CHARS, MIN_CHARS, VARIABLE, api_key
from loadcheck.serving.request import ServeRequest, resolve_request
from loadcheck.specs.files import to_data, to_toml, validate
from loadcheck.specs.profile import Profile
from loadcheck.stacks.plain_vllm.gate import EXPIRES, GRACE, KEY, MAX_BODY_BYTES, VERDICT, Gate
from loadcheck.stacks.plain_vllm.serving import Served, argv, environment, predict_served, served_case
from loadcheck.stacks.serving import known_holes
from loadcheck.units import GIB
from tests.conftest import ROOT, RUNS
from tests.judging import only_error
from tests.ports import free_port
from tests.test_export import _training

RUN = RUNS / "h200" / "plain-qwen2.5-7b"
H200 = GpuDevice("NVIDIA H200", "9.0", 150_109_880_320, 149_500_000_000, "12.4")
SECRET = "a-key-that-nobody-guesses"
SERVER_CODE = """
import http.server, os, pathlib, signal, sys
sys.stdout.write(pathlib.Path(sys.argv[2]).read_text())
print("key", os.environ["VLLM_API_KEY"], flush=True)
print("sees", os.environ["CUDA_VISIBLE_DEVICES"], os.environ.get("CUDA_DEVICE_ORDER"), flush=True)
if sys.argv[1] == "0":
    sys.exit(7)
class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
    def log_message(self, *_): pass
def end(*_):
    print("ended with grace", flush=True); os._exit(0)
signal.signal(signal.SIGTERM, end)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Health).serve_forever()
"""


class Server:
    """What is started, and how."""

    def __init__(self) -> None:
        self.served: Served | None = None
        self.dies = False
        self.log = RUN / "load.log"

    def command(self, served: Served) -> list[str]:
        self.served = served
        return [sys.executable, "-S", "-c", SERVER_CODE, "0" if self.dies else str(served.port), str(self.log)]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Server:
    """A machine with an H200 and all packages, and the kept run's profile `q.toml`; the server is ended once it is ready."""
    found = Server()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("loadcheck.cli.serve.require", lambda names, profile: None)
    monkeypatch.setattr("loadcheck.device.read_gpu", lambda: H200)
    monkeypatch.setattr("loadcheck.cli.serve.run_step", lambda step, request: {"directory": str(tmp_path)})
    monkeypatch.setattr("loadcheck.serving.server.command", found.command)
    monkeypatch.setattr("loadcheck.serving.server.POLL_S", 0.02)
    for name, is_ready in (("show_ready", lambda _: True), ("print_json", lambda words: "url" in words[0])):
        shown = vars(of_cli)[name]
        monkeypatch.setattr(of_cli, name, _ended_when_ready(shown, is_ready))
    profile = validate(Profile, json.loads((RUN / "run.json").read_text())["profile"], "run.json")
    Path("q.toml").write_text(to_toml(to_data(profile) | {"adapters": False}))
    return found


def _ended_when_ready(shown: Callable[..., None], is_ready: Callable[[Any], bool]) -> Callable[..., None]:
    """End the server by SIGTERM once it has reported that it is ready."""

    def show(*words: Any) -> None:
        shown(*words)
        if is_ready(words):
            os.kill(os.getpid(), signal.SIGTERM)

    return show


def test_a_server_is_judged_once_it_answers(server: Server, capsys: pytest.CaptureFixture[str]):
    """Exit 0: the warning, the verdict, the address, and a new key, shown once and not in the log; the verdict is kept."""
    port = free_port()
    assert loadcheck(["serve", "q.toml", "--port", str(port), "--run-dir", "kept"]) == 0
    output = capsys.readouterr().out
    assert f"http://127.0.0.1:{port}/v1" in output and "PASS" in output and "CVE-2025-48956" in output
    key = output.partition("API key, shown once: ")[2].strip()
    log = Path("kept/load.log").read_text()
    assert len(key) > 40 and output.count(key) == 1 and key not in log and "ended with grace" in log
    assert json.loads(Path("kept/verdict.json").read_text())["verdict"] == "pass"


def test_a_pinned_gpu_is_passed_on_by_number(server: Server, monkeypatch: pytest.MonkeyPatch):
    """vLLM's engine is the server's child and starts the driver itself; with 0, as in a load, it used another GPU (two H200, 2026-11-29)."""
    monkeypatch.setattr("loadcheck.device.read_gpus", lambda: (("GPU-a", "NVIDIA H200"), ("GPU-b", "NVIDIA H200")))
    monkeypatch.setenv("LOADCHECK_GPU", "GPU-b")
    assert loadcheck(["serve", "q.toml", "--port", str(free_port()), "--run-dir", "served"]) == 0
    assert "sees 1 PCI_BUS_ID\n" in Path("served/load.log").read_text()


def test_json_is_one_document(server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """One document, once the server answers; a given key is not repeated."""
    monkeypatch.setenv("LOADCHECK_API_KEY", SECRET)
    assert loadcheck(["serve", "q.toml", "--port", str(free_port()), "--json", "--key-hours", "1"]) == 0
    output = capsys.readouterr()
    document = json.loads(output.out)
    assert (document["verdict"], document["api_key"], document["models"]) == ("pass", None, ["qwen2.5-7b-instruct"])
    assert 0 < document["key_expires_unix_s"] - time.time() <= 3600
    assert SECRET not in output.out + output.err


def test_a_start_is_judged_once_its_output_is_in_the_log(server: Server, monkeypatch: pytest.MonkeyPatch):
    """A server may answer before we have read what it printed: what is judged is all of it."""
    write = LogSink.write

    def late(sink: LogSink, data: bytes) -> None:
        time.sleep(0.5)
        write(sink, data)

    monkeypatch.setattr(LogSink, "write", late)
    assert loadcheck(["serve", "q.toml", "--port", str(free_port()), "--run-dir", "kept"]) == 0
    assert json.loads(Path("kept/verdict.json").read_text())["verdict"] == "pass"


def test_another_model_fails(server: Server, tmp_path: Path):
    """Another model's weights differ from the prediction: exit 1, although it served."""
    server.log = tmp_path / "other.log"
    server.log.write_text((RUN / "load.log").read_text().replace("weights took 5.2", "weights took 5.9"))
    assert server.log.read_text() != (RUN / "load.log").read_text()
    assert loadcheck(["serve", "q.toml", "--port", str(free_port())]) == 1


def test_a_server_that_dies_is_reported(server: Server, capsys: pytest.CaptureFixture[str]):
    """A server that dies: exit 1, with its code and its log."""
    server.dies = True
    assert loadcheck(["serve", "q.toml", "--port", str(free_port()), "--run-dir", "kept"]) == 1
    assert (
        "the server ended by itself: the loading process ended with exit code 7; see kept/load.log"
        in capsys.readouterr().out
    )


def test_without_a_gpu_generate_is_suggested(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Without a GPU: exit 3, with `generate` as the alternative."""
    monkeypatch.setattr("loadcheck.device.read_gpu", lambda: None)
    assert loadcheck(["serve", "q.toml", "--port", str(free_port())]) == 3
    assert "loadcheck generate DIR --prompt" in only_error(capsys)


def test_a_port_in_use_is_refused(server: Server, capsys: pytest.CaptureFixture[str]):
    """A port in use, and a host that is not this machine's, exit 2 before anything starts."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert loadcheck(["serve", "q.toml", "--port", str(taken.getsockname()[1])]) == 2
    assert "--port: cannot listen on 127.0.0.1:" in only_error(capsys)
    assert loadcheck(["serve", "q.toml", "--host", "192.0.2.1"]) == 2
    assert server.served is None


def test_a_server_that_does_not_fit_is_not_started(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """A server that does not fit exits 1; --force starts it."""
    small = GpuDevice("NVIDIA H200", "9.0", 6 * GIB, 6 * GIB, "12.4")
    monkeypatch.setattr("loadcheck.device.read_gpu", lambda: small)
    words = ["serve", "q.toml", "--port", str(free_port())]
    assert loadcheck(words) == 1
    assert server.served is None and "Nothing was started" in capsys.readouterr().out
    server.dies = True
    assert loadcheck([*words, "--force"]) == 1
    assert server.served is not None


def test_a_key_in_a_private_file_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A file that only its owner can read gives the key, without the blanks around it, before the variable; it is neither new nor in a traceback."""
    monkeypatch.setenv(VARIABLE, "b" * MIN_CHARS)
    (tmp_path / "key").write_text(f" {SECRET}\n")
    (tmp_path / "key").chmod(0o600)
    found = api_key(tmp_path / "key", None)
    assert (found.text, found.is_new, found.expires_unix_s) == (SECRET, False, None)
    assert SECRET not in repr(found)


@pytest.mark.parametrize("number", [MIN_CHARS, MAX_CHARS])
def test_keys_of_the_limits_are_accepted(monkeypatch: pytest.MonkeyPatch, number: int):
    """The shortest and the longest key are accepted, and the next ones beyond are refused."""
    monkeypatch.setenv(VARIABLE, f" {'a' * number}\n")
    assert api_key(None, None).text == "a" * number
    monkeypatch.setenv(VARIABLE, "a" * (number - 1 if number == MIN_CHARS else number + 1))
    with pytest.raises(BadInput, match="is not a key of"):
        api_key(None, None)


@pytest.mark.parametrize("odd", ["\x7f", "\r\n", "é", ""])
def test_a_key_that_no_header_can_carry_is_refused(monkeypatch: pytest.MonkeyPatch, odd: str):
    """A key with a control character or one beyond ASCII, and a variable that is set but empty, start no server."""
    monkeypatch.setenv(VARIABLE, odd and SECRET + odd + SECRET)
    with pytest.raises(BadInput, match="is not a key of"):
        api_key(None, None)


@pytest.mark.parametrize("text", ["short", "with a blank in its middle", "ключ-ключ-ключ-ключ"])
def test_a_weak_key_is_refused(server: Server, capsys: pytest.CaptureFixture[str], text: str):
    """A weak key exits 2, without the key in the error."""
    Path("key").write_text(text)
    Path("key").chmod(0o600)
    assert loadcheck(["serve", "q.toml", "--port", str(free_port()), "--api-key-file", "key"]) == 2
    assert text not in only_error(capsys)


def test_a_key_that_others_can_read_is_refused(server: Server, capsys: pytest.CaptureFixture[str]):
    """A key file that others can read exits 2, with the command to fix it."""
    Path("key").write_text(SECRET)
    Path("key").chmod(0o644)
    assert loadcheck(["serve", "q.toml", "--port", str(free_port()), "--api-key-file", "key"]) == 2
    assert "chmod 600" in only_error(capsys)


# ------------------------------------------------------------------------------------------------------- adapters and the base


def _export(folder: Path, run: Path, **proof: Any) -> None:
    """An export of the run with these keys in its proof."""
    from loadcheck.exporting.proof import hashes

    shutil.copytree(run / "adapter", folder)
    data = {
        "loadcheck": "0", "commit": None, "run": "r2", "run_verdict": "pass", "form": "adapters", "model": "smollm2-135m-instruct",
        "plan": json.loads((run / "plan.json").read_text()), "base_files": {"model.safetensors": "aa"}, "dtype": "float16", "rank": 8,
        "tolerance": 1, "notes": [], "files": hashes(folder),
        "comparison": {"distance": 0, "base_distance": 1, "num_positions": 8, "same_tokens": True, "num_chats": 3, "device": "cpu",
                       "versions": {}},
    }  # fmt: skip
    (folder / PROOF).write_text(json.dumps(data | proof))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A training in the working directory."""
    monkeypatch.chdir(tmp_path)
    _training(tmp_path / "run")
    return tmp_path / "run"


def _served(found: ServeRequest) -> list[str]:
    return argv(Served(found.plan, Path("/base"), found.adapters, found.rank, "127.0.0.1", 8000))


def test_a_run_is_served_with_other_adapters(run: Path):
    """Adapters are served under names for requests, with the smallest rank that fits them all; no key is in the arguments."""
    _training(run.parent / "other", r=40)
    found = resolve_request("run", [("sql", Path("other"))], {"max_num_seqs": 16})
    words = _served(found)
    at = words.index("--enable-lora")
    assert words[at : at + 6] == ["--enable-lora", "--max-loras", "2", "--max-lora-rank", "64", "--lora-modules"]
    assert words[at + 6 :] == [f"r2={run}/adapter", f"sql={run.parent}/other/adapter"]
    assert words[words.index("--max-num-seqs") + 1] == "16"
    assert words[words.index("--host") + 1] == "127.0.0.1" and "--api-key" not in words


def test_exports_are_served_by_their_folder(run: Path):
    """An export of adapters is served under its folder's name; a merged model is its own base, without adapters."""
    _export(Path("my export"), run)
    assert list(resolve_request("my export", [], {}).adapters) == ["my-export"]
    _export(Path("merged"), run, form="merged")
    shutil.copy(ROOT / "tests" / "training" / "run" / "plan.json", "config.json")
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 576, "intermediate_size": 1536,
              "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152,
              "max_position_embeddings": 8192, "tie_word_embeddings": True, "torch_dtype": "float16"}  # fmt: skip
    Path("merged/config.json").write_text(json.dumps(config))
    (Path("merged") / ADAPTER).rename("merged/model.safetensors")
    _update_proof(Path("merged"))
    found = resolve_request("merged", [], {})
    assert (found.merged, found.rank, found.plan.quantization) == (Path("merged"), None, "16bit")
    assert "--enable-lora" not in _served(found) and not found.plan.profile.load_in_4bit
    _export(Path("more"), run)
    with pytest.raises(BadInput, match="serve it with adapters on the same base"):
        resolve_request("merged", [("b", Path("more"))], {})


def test_exports_on_the_same_files_are_served_together(run: Path):
    """A second export is served beside the first if both have the base's files by SHA-256; its folder is that of the export."""
    _export(Path("one"), run)
    _export(Path("two"), run)
    assert resolve_request("one", [("b", Path("two"))], {}).adapters == {"one": Path("one"), "b": Path("two")}
    assert resolve_request("run", [("b", Path("two"))], {}).adapters["b"] == Path("two")
    Path("link").symlink_to("one")
    assert list(resolve_request("link", [], {}).adapters) == ["one"]


def _update_proof(folder: Path) -> None:
    from loadcheck.exporting.proof import hashes

    proof = json.loads((folder / PROOF).read_text())
    (folder / PROOF).write_text(json.dumps({**proof, "files": hashes(folder)}))


def test_wrong_bases_names_and_ranks_are_refused(run: Path, capsys: pytest.CaptureFixture[str]):
    """Another base by name or weights, a duplicate name, adapters on a merged model and an incomplete export exit 2 with one line."""
    _export(Path("one"), run)
    _export(Path("two"), run, base_files={"model.safetensors": "bb"})
    _export(Path("half"), run)
    Path("half/tokenizer.json").unlink()
    _training(run.parent / "large", r=300)
    for source, more, words in (
        ("one", "b=two", "has the base smollm2-135m-instruct, but"),
        (
            "llama31-8b-instruct-4bit",
            "b=one",
            "has the base smollm2-135m-instruct, but llama-3.1-8b-instruct is served",
        ),
        ("run", "r2=one", "is taken, or not a valid name"),
        ("run", "-x=one", "is taken, or not a valid name"),
        ("run", "one", "is not NAME=DIR"),
        ("half", "", "tokenizer.json is missing"),
        ("large", "", "rank 300 is above 256"),
        ("no-such-profile", "", "no-such-profile"),
    ):
        assert loadcheck(["serve", source, *(["--adapter", more] if more else [])]) == 2
        assert words in only_error(capsys), (source, more)


def test_slots_of_adapters_are_predicted_outside_the_budget(run: Path):
    """Twice the adapters need twice the slots, and no rank needs none; the index buffers are there once."""
    plan = (
        plan_from_json(json.loads((RUN / "plan.json").read_text()))
        if (RUN / "plan.json").exists()
        else resolve_request("run", [], {}).plan
    )
    card = card_from_device("NVIDIA H200", "9.0", H200.total_bytes, H200.free_bytes)
    case = Case(
        model_name=plan.model_name, config=plan.config, profile=plan.profile, card=card, ram_available_bytes=64 * GIB
    )
    slots = [
        predict_served(served_case(case, rank, count)).memory.sum_bytes(("lora_slots",))
        for rank, count in ((None, 0), (16, 1), (16, 2), (16, 3))
    ]
    assert slots[0] == 0 and 0 < slots[2] - slots[1] == slots[3] - slots[2] < slots[1]


def test_the_servers_variables_enable_nothing(tmp_path: Path):
    """The server's variables enable no route that takes a folder, no hub token and no telemetry; only they hold the key."""
    env = environment(
        {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1", "VLLM_SERVER_DEV_MODE": "1", "HF_TOKEN": "hf", "PATH": "/bin", EXPIRES: "1"},
        SECRET, None, tmp_path / "verdict.json", 30.0,
    )  # fmt: skip
    assert (env["PATH"], env[KEY], env["VLLM_NO_USAGE_STATS"], env[GRACE]) == ("/bin", SECRET, "1", "30.0")
    assert not {"VLLM_ALLOW_RUNTIME_LORA_UPDATING", "VLLM_SERVER_DEV_MODE", "HF_TOKEN", EXPIRES} & env.keys()


def test_listed_vulnerabilities_are_the_affected_ones():
    """The vulnerabilities listed for a server are the affected ones of env/vex.toml."""
    names = [name for names, _ in known_holes() for name in names]
    assert "CVE-2025-29770" in names and "CVE-2025-32444" not in names and "CVE-2025-32434" not in names


# --------------------------------------------------------------------------------------------------------------------- the gate


def _request(
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    path: str,
    key: str | None = SECRET,
    parts: Sequence[bytes] = (b"",),
    expires: str = "",
    host: str = "x",
) -> tuple[int, Any]:
    """Status and body of one request through the gate; a request that passes gets 299, with the length of its body."""
    for name, value in {KEY: SECRET, VERDICT: str(folder / "verdict.json"), EXPIRES: expires}.items():
        monkeypatch.setenv(name, value)
    sent: list[Any] = []
    left: list[Any] = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    left[-1]["more_body"] = False

    async def app(scope: Any, receive: Any, send: Any) -> None:
        first, then = await receive(), await receive()
        assert (first["more_body"], then["type"]) == (False, "http.disconnect")
        await send({"type": "http.response.start", "status": 299, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps(len(first["body"])).encode()})

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return left.pop(0) if left else {"type": "http.disconnect"}

    headers = [(b"host", host.encode())]
    headers += [] if key is None else [(b"Authorization", f"Bearer {key}".encode())]
    asyncio.run(Gate(app)({"type": "http", "path": path, "headers": headers}, receive, send))
    return sent[0]["status"], json.loads(sent[1]["body"])


@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/tokenize", "/invocations", "/metrics", "/loadcheck", "/", "//health"]
)
def test_every_route_needs_the_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, path: str):
    """Every route needs the key, also those that the server leaves open: 401 without one, with another, or with an expired one."""
    for key in (None, "", SECRET[:-1], SECRET + "x"):
        assert _request(monkeypatch, tmp_path, path, key)[0] == 401
    status, document = _request(monkeypatch, tmp_path, path, expires="1")
    assert (status, document["error"]["message"]) == (401, "the key has expired: restart the server")


@pytest.mark.parametrize("host", ["x/health?", "x/health#", "/health", "http://x/ping", ""])
def test_a_host_header_opens_no_route(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, host: str):
    """A Host header that makes an address look like an open route (CVE-2026-48710, -48746) still needs the key."""
    assert _request(monkeypatch, tmp_path, "/v1/models", None, host=host)[0] == 401


def test_the_key_opens_every_route(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """With the key every route is open, and anybody may ask for the health."""
    assert _request(monkeypatch, tmp_path, "/v1/models")[0] == 299
    assert _request(monkeypatch, tmp_path, "/v1/models", expires=str(time.time() + 60))[0] == 299
    assert _request(monkeypatch, tmp_path, "/health", None)[0] == 299


@pytest.mark.parametrize("key", ["chat_template", "chat_template_kwargs"])
def test_a_chat_template_in_a_request_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, key: str):
    """A request with a chat template is refused in any encoding that the server's parser reads; null is no template."""
    for encoding in ("utf-8", "utf-16"):
        body = json.dumps({"messages": [], key: "{{ x }}"}).encode(encoding)
        status, document = _request(monkeypatch, tmp_path, "/v1/chat/completions", parts=(body[:7], body[7:]))
        assert (status, document["error"]["message"]) == (400, f"{key}: not accepted in a request")
    assert _request(monkeypatch, tmp_path, "/v1/chat/completions", parts=(json.dumps({key: None}).encode(),))[0] == 299


def test_a_body_is_passed_on_whole_or_not_at_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A body in several parts is passed on in one piece, invalid JSON unchanged, and more than 4 MiB not at all."""
    assert _request(monkeypatch, tmp_path, "/v1/completions", parts=(b"[1, ", b"2]")) == (299, 6)
    assert _request(monkeypatch, tmp_path, "/v1/completions", parts=(b"no json",)) == (299, 7)
    assert _request(monkeypatch, tmp_path, "/v1/completions", parts=(b"x" * MAX_BODY_BYTES,)) == (299, MAX_BODY_BYTES)
    assert _request(monkeypatch, tmp_path, "/v1/completions", parts=(b"x" * MAX_BODY_BYTES, b"x"))[0] == 413


def test_the_verdict_is_served_once_it_exists(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """503 before the verdict, then the document."""
    assert _request(monkeypatch, tmp_path, "/loadcheck")[0] == 503
    RunFolder(tmp_path).verdict_path.write_text('{"verdict": "pass"}')
    assert _request(monkeypatch, tmp_path, "/loadcheck") == (200, {"verdict": "pass"})


def test_only_requests_and_lifespan_events_pass(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Web sockets are refused; lifespan events pass."""
    monkeypatch.setenv(KEY, SECRET)
    monkeypatch.setenv(VERDICT, str(tmp_path))
    seen = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    for kind in ("lifespan", "websocket"):
        asyncio.run(Gate(app)({"type": kind, "path": "/v1", "headers": []}, None, None))
    assert seen == ["lifespan"]
