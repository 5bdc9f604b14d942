"""vLLM 0.7.2's own OpenAI-compatible server: how it is started, and what it takes of the card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from loadcheck.plan import LoadPlan
from loadcheck.predict.account import Obstacle, Prediction
from loadcheck.predict.case import Case
from loadcheck.predict.terms import Term
from loadcheck.runs.secrets import TOKEN_VARIABLES
from loadcheck.specs.settings import handed_on
from loadcheck.stacks.plain_vllm.gate import EXPIRES, KEY, VERDICT
from loadcheck.stacks.plain_vllm.plan import plan_of
from loadcheck.stacks.plain_vllm.prediction import predict
from loadcheck.stacks.unsloth_vllm.engine import ENVIRONMENT, UNSET
from loadcheck.stacks.unsloth_vllm.slots import lora_slots
from loadcheck.units import show_bytes

SERVER = "vllm.entrypoints.openai.api_server"
GATE = "loadcheck.stacks.plain_vllm.gate.Gate"
FORBIDDEN = (
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING",  # a request would name any folder of this machine (api_server.py:631-657)
    "VLLM_SERVER_DEV_MODE",  # routes that reset the cache (api_server.py:570-583)
    "VLLM_TORCH_PROFILER_DIR",  # routes that write profiles (api_server.py:608-628)
)


@dataclass(frozen=True, slots=True)
class Served:
    """What a server is to serve.

    Attributes:
        directory: of the base's weights, or of a merged model.
        adapters: folders in peft's form, by the model name that requests ask for.
        rank: the least --max-lora-rank that takes all of them; None without adapters.
    """

    plan: LoadPlan
    directory: Path
    adapters: Mapping[str, Path]
    rank: int | None
    host: str
    port: int


def argv(served: Served) -> list[str]:
    """The arguments of the server (vllm/entrypoints/openai/cli_args.py:80-260, engine/arg_utils.py); none of them is a secret.

    No prompt is logged, no page of another origin may ask, and there are no pages about the routes.
    """
    profile, loader = served.plan.profile, "bitsandbytes" if served.plan.quantization == "nf4" else None
    words = [
        "--model", str(served.directory.resolve()), "--served-model-name", served.plan.model_name, "--host", served.host,
        "--port", str(served.port), "--middleware", GATE, "--disable-log-requests", "--disable-fastapi-docs", "--allowed-origins", "[]",
        "--max-model-len", str(profile.max_seq_length),
        "--gpu-memory-utilization", str(profile.gpu_memory_utilization), "--kv-cache-dtype", "fp8" if profile.float8_kv_cache else "auto",
    ]  # fmt: skip
    if loader:
        words += ["--quantization", loader, "--load-format", loader]
    for name, value in handed_on(profile).items():
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


def environment(env: Mapping[str, str], key: str, expires_unix_s: float | None, verdict: Path) -> dict[str, str]:
    """The server's variables: the key, the verdict's file, nothing that reaches a network, no token, and no switch that opens a route."""
    kept = {name: value for name, value in env.items() if name not in (*UNSET, *FORBIDDEN, *TOKEN_VARIABLES, EXPIRES)}
    own = {KEY: key, VERDICT: str(verdict.resolve())}
    return {**kept, **ENVIRONMENT, **own, **({} if expires_unix_s is None else {EXPIRES: str(expires_unix_s)})}


def predict_served(case: Case, rank: int | None, num_adapters: int) -> Prediction:
    """The memory of the server: that of vLLM alone, and the slots of its adapters, which lie outside of its budget.

    Not measured: the slots are to the byte those of unsloth's engine (slots.py) for one adapter; for several they are taken as often.
    """
    found = predict(case)
    if rank is None or found.account is None or case.card is None:
        return found
    plan = plan_of(case)
    one = lora_slots(case.config, rank, plan.batched_tokens or plan.max_model_len, plan.max_num_seqs).num_bytes
    slots = Term("lora_slots", num_adapters * one, "stacks/unsloth_vllm/slots.py")
    peak = found.account.peak
    account = replace(
        found.account, peak=replace(peak, num_bytes=peak.num_bytes + slots.num_bytes, parts=(*peak.parts, slots))
    )
    needed = found.account.largest_bytes + slots.num_bytes
    short = needed - case.card.total_bytes
    return replace(
        found, account=account, obstacles=(*found.obstacles, *([_short(needed, short)] if short > 0 else []))
    )


def _short(needed: int, short: int) -> Obstacle:
    return Obstacle(
        f"model, cache and the adapters' slots need {show_bytes(needed)}, {show_bytes(short)} more than the card has",
        "torch.OutOfMemoryError: CUDA out of memory.",
        "lower --gpu-memory-utilization, or serve fewer adapters",
        "peak",
    )
