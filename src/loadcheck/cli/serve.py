"""`loadcheck serve`: vLLM's own OpenAI-compatible server, with the trained adapters."""

from __future__ import annotations

import math
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from loadcheck import device
from loadcheck.cli.chosen import overrides
from loadcheck.cli.options import PATH, json_option, profile_argument, setting_options
from loadcheck.cli.output import print_json
from loadcheck.errors import EXIT_FAIL, EXIT_PASS, BadInput, Problem, UnsupportedMachine
from loadcheck.exporting.child import run_step
from loadcheck.findings.finding import Verdict
from loadcheck.plan import plan_to_json
from loadcheck.predict.account import Prediction
from loadcheck.predict.case import Case
from loadcheck.preparing import GPU_PROFILE, case_here, require
from loadcheck.runs.new_folder import create_run_folder, new_run_id
from loadcheck.serving.key import ApiKey, api_key
from loadcheck.serving.request import ServeRequest, resolve_request
from loadcheck.serving.server import LOOPBACK, check_port, serve
from loadcheck.show.prediction import show_prediction
from loadcheck.show.serve import ending, show_ready, show_warnings
from loadcheck.specs.profile import VLLM_ALONE
from loadcheck.stacks.serving import Served, predict_served, served_case
from loadcheck.terminal import console, print_words

NEEDED = ("torch", "vllm", "transformers")
KEYS = ("max_seq_length", "gpu_memory_utilization", "float8_kv_cache", "prefix_caching", "chunked_prefill")
"""Settings of a profile that a server takes, beside those that are passed on unchanged."""


@click.command("serve", short_help="Run vLLM's OpenAI-compatible server with your adapters.")
@profile_argument(GPU_PROFILE, "[RUN|DIR|PROFILE]")
@click.option(
    "--adapter", "adapters", metavar="NAME=DIR", multiple=True, help="More adapters on the same base, by name."
)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on; anything but loopback gives a warning.",
)
@click.option("--port", type=click.IntRange(1, 65535), default=8000, show_default=True, help="Port to listen on.")
@click.option(
    "--api-key-file", type=PATH, metavar="FILE",
    help="File with the API key, readable by you alone. Without it: LOADCHECK_API_KEY, else a key is made and shown once.",
)  # fmt: skip
@click.option("--key-hours", type=click.FloatRange(0, 8760, min_open=True), help="Hours until the key expires.")
@setting_options(lambda flag: flag.key in KEYS or (bool(flag.setting.argument) and flag.key not in VLLM_ALONE))
@click.option("--run-dir", type=PATH, help="Folder of its log and verdict.  [default: served/<time>-<name>]")
@click.option("--force", is_flag=True, help="Start even if it is predicted not to fit.")
@json_option
def command(profile: str | None, host: str, port: int, adapters: tuple[str, ...], api_key_file: Path | None, key_hours: float | None,
            run_dir: Path | None, force: bool, as_json: bool, **flags: Any) -> int:  # fmt: skip
    """Serve the model of a profile, or of a training or an export with its adapters, with vLLM's own server.

    It listens on loopback unless --host says otherwise, and every route but /health and /ping requires the key. GET /loadcheck returns the
    verdict on its start. Ctrl-C and SIGTERM let running requests finish.

    Exit codes: 0 stopped by you after a start in range, 1 the start failed, was out of range or would not fit, or the server ended by itself, 2 bad input,
    3 this machine cannot.
    """
    out, source = console(stderr=as_json), profile or GPU_PROFILE
    found = resolve_request(source, [_named(each) for each in adapters], overrides(flags))
    check_port(host, port)
    key = api_key(api_key_file, key_hours)
    gpu, variables = _gpu(source), device.pin_for_children()
    require(NEEDED, found.plan.profile)
    case = served_case(case_here(found.plan, gpu, device.ram_available_bytes()), found.rank, len(found.adapters))
    prediction = predict_served(case)
    if not prediction.fits and not force:
        return _refused(out, prediction, as_json)
    served = Served(found.plan, _base(found), found.adapters, found.rank, host, port, variables)
    show_warnings(out, host, host in LOOPBACK)
    return _serve(out, served, key, case, run_dir, as_json)


def _named(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not equals or not name or not path:
        raise BadInput(Problem("command line", f"{text!r:.80} is not NAME=DIR", "such as sql=exports/sql", "--adapter"))
    return name, Path(path)


def _gpu(source: str) -> device.GpuDevice:
    """This machine's GPU; UnsupportedMachine without one."""
    gpu = device.read_gpu()
    if gpu is None:
        remedy = "run it where nvidia-smi lists one; here, use `loadcheck generate DIR --prompt TEXT`"
        raise UnsupportedMachine(Problem(source, "serving needs an NVIDIA GPU, and none is visible here", remedy))
    return gpu


def _base(found: ServeRequest) -> Path:
    """The directory to serve: the merged model, or the base, fetched or made if missing."""
    if found.merged is not None:
        return found.merged
    request = {"plan": plan_to_json(found.plan), "dtype": "float16", "base_files": found.base_files}
    return Path(run_step("base", request)["directory"])


def _refused(out: Console, prediction: Prediction, as_json: bool) -> int:
    if as_json:
        print_json({"outcome": "refused", **prediction.to_json()})
    else:
        show_prediction(out, prediction, tree=False)
    print_words(out, "Nothing was started. Add --force to start anyway.")
    return EXIT_FAIL


def _serve(out: Console, served: Served, key: ApiKey, case: Case, run_dir: Path | None, as_json: bool) -> int:
    name = served.plan.profile.name
    folder = create_run_folder(run_dir or _default(name), name)

    def ready(verdict: Verdict) -> None:
        if as_json:
            print_json({"run": str(folder.path), **_document(served, key), **verdict.to_json()})
        else:
            show_ready(out, served, key, verdict)

    print_words(out, f"starting; its log is {folder.log_path}")
    end, verdict = serve(served, key, case, folder, ready, lambda _: None)
    if (words := ending(end, verdict is not None)) is not None:
        print_words(out, f"{words}; see {folder.log_path}")
    return EXIT_PASS if end.interrupted and verdict is not None and verdict.passed else EXIT_FAIL


def _default(name: str) -> Path:
    return Path("served") / new_run_id(name, datetime.now(timezone.utc))


def _document(served: Served, key: ApiKey) -> dict[str, Any]:
    """The document of --json once it answers: its address, its models, and the key if it was made."""
    expires = key.expires_unix_s
    return {
        "url": f"http://{served.host}:{served.port}/v1",
        "models": [served.plan.model_name, *served.adapters],
        "api_key": key.text if key.is_new else None,
        "key_expires_unix_s": None if expires is None else math.floor(expires),
    }
