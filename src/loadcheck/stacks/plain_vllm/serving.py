"""vLLM 0.7.2's own OpenAI-compatible server: how it is started, and how much memory it takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from loadcheck.findings.evidence import Evidence
from loadcheck.logs import Attempt, ParsedLog
from loadcheck.plan import LoadPlan
from loadcheck.predict.account import Obstacle, Prediction
from loadcheck.predict.case import Case
from loadcheck.runs.secrets import TOKEN_VARIABLES
from loadcheck.specs.files import changed
from loadcheck.specs.model import find_model
from loadcheck.specs.settings import engine_arguments
from loadcheck.stacks.plain_vllm import STACK
from loadcheck.stacks.plain_vllm.gate import EXPIRES, GRACE, KEY, VERDICT
from loadcheck.stacks.plain_vllm.prediction import activation_band, predict
from loadcheck.stacks.unsloth_vllm.bands import EXACT, Rounding, bands
from loadcheck.stacks.unsloth_vllm.environment import ENVIRONMENT, UNSET
from loadcheck.stacks.unsloth_vllm.kv import config_block_bytes, kv_cache_dtype_of
from loadcheck.units import show_bytes

SERVER = "loadcheck.stacks.plain_vllm.server"
GATE = "loadcheck.stacks.plain_vllm.gate.Gate"
FORBIDDEN = (
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING",  # a request could load any folder of this machine (api_server.py:631-657)
    "VLLM_SERVER_DEV_MODE",  # adds routes that reset the cache (api_server.py:570-583)
    "VLLM_TORCH_PROFILER_DIR",  # adds routes that write profiles (api_server.py:608-628)
)


@dataclass(frozen=True, slots=True)
class Served:
    """What to serve.

    Attributes:
        directory: the weights of the base, or of a merged model.
        adapters: folders in peft's format, by the model name that requests use.
        rank: the smallest --max-lora-rank that accepts all adapters; None without adapters.
        variables: select one GPU of several for the server and its engine (device.py: pin_for_children).
    """

    plan: LoadPlan
    directory: Path
    adapters: Mapping[str, Path]
    rank: int | None
    host: str
    port: int
    variables: Mapping[str, str] = field(default_factory=dict)


def argv(served: Served) -> list[str]:
    """The server's arguments (vllm/entrypoints/openai/cli_args.py:80-260, engine/arg_utils.py); none of them is a secret.

    Prompts are not logged, requests from other origins are not allowed, and the API documentation is off.
    """
    profile, loader = served.plan.profile, "bitsandbytes" if served.plan.quantization == "nf4" else None
    words = [
        "--model", str(served.directory.resolve()), "--served-model-name", served.plan.model_name, "--host", served.host,
        "--port", str(served.port), "--middleware", GATE, "--disable-log-requests", "--disable-fastapi-docs", "--allowed-origins", "[]",
        "--max-model-len", str(profile.max_seq_length),
        "--gpu-memory-utilization", str(profile.gpu_memory_utilization), "--kv-cache-dtype", kv_cache_dtype_of(profile),
    ]  # fmt: skip
    if loader:
        words += ["--quantization", loader, "--load-format", loader]
    for name, value in engine_arguments(profile).items():
        flag = "--" + name.replace("_", "-")
        words += [flag] if value is True else [flag, str(value)]
    words += ["--enable-prefix-caching"] if profile.caches_prefixes else []
    if profile.chunked_prefill != "default":
        words += ["--enable-chunked-prefill", str(profile.chunked_prefill == "on")]
    return [*words, *_lora(served)]


def _lora(served: Served) -> Sequence[str]:
    if not served.adapters:
        return ()
    modules = [f"{name}={path.resolve()}" for name, path in served.adapters.items()]
    most = str(len(modules))
    return "--enable-lora", "--max-loras", most, "--max-lora-rank", str(served.rank), "--lora-modules", *modules


def environment(
    env: Mapping[str, str], key: str, expires_unix_s: float | None, verdict: Path, grace_s: float
) -> dict[str, str]:
    """The server's environment: the key, the verdict's file, and how long requests may run at shutdown (`grace_s`); no network access, no
    token, and no switch that adds a route."""
    kept = {name: value for name, value in env.items() if name not in (*UNSET, *FORBIDDEN, *TOKEN_VARIABLES, EXPIRES)}
    own = {KEY: key, VERDICT: str(verdict.resolve()), GRACE: str(grace_s)}
    return {**kept, **ENVIRONMENT, **own, **({} if expires_unix_s is None else {EXPIRES: str(expires_unix_s)})}


def served_case(case: Case, rank: int | None, num_adapters: int) -> Case:
    """The case of a server: with the LoRA slots that `argv` requests by --max-loras and --max-lora-rank."""
    return case if rank is None else replace(case.changed({"max_lora_rank": rank}), max_loras=num_adapters)


def predict_served(case: Case) -> Prediction:
    """Predict a server (`served_case`): vLLM alone, the adapters' embedding rows among the weights, and LoRA slots outside its budget.

    A load answers one request, a server many at once, so the memory of a full batch must fit, too.
    """
    found = predict(case)
    if case.card is None or found.account is None:
        return found
    needed = found.account.largest_bytes
    short = needed - case.card.total_bytes
    if short <= 0 or any(obstacle.short == "peak" for obstacle in found.obstacles):
        return found
    return replace(found, warnings=(), obstacles=(*found.obstacles, _short(needed, short)))


def _short(needed: int, short: int) -> Obstacle:
    return Obstacle(
        f"a full batch of requests needs {show_bytes(needed)}, {show_bytes(short)} more than the card has",
        "torch.OutOfMemoryError: CUDA out of memory.",
        "lower --gpu-memory-utilization or --max-num-seqs, or serve fewer adapters",
        "peak",
    )


def evidence_of(log: ParsedLog, case: Case) -> Evidence:
    """The evidence that a server's start is judged by: its log, and the prediction for the card as it was before."""
    seen, rounding = _as_measured(log.last, case)
    figures = predict_served(seen).figures
    return Evidence(
        log=log,
        stack=STACK,
        profile=changed(case.profile, {"load_in_4bit": case.config.quantization == "nf4"}),
        model=find_model(case.model_name),
        config=case.config,
        predicted=figures,
        case=case,
        bands={**bands(figures, case.gpu, rounding), **activation_band(figures)},
        strict_stack=True,
    )


def _as_measured(attempt: Attempt, case: Case) -> tuple[Case, Rounding]:
    """The case with the log's non_torch, where the card's differs or is unknown: later figures depend on it."""
    card, reading = case.gpu, attempt.reading("non_torch_bytes")
    if reading is None or (card.non_torch_bytes is not None and reading.agrees(card.non_torch_bytes)):
        return case, EXACT
    found = replace(case, card=replace(card, non_torch_bytes=int(reading.value)))
    return found, Rounding(0, reading.tolerance, config_block_bytes(case.config))
