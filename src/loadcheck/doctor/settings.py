"""Checks of what the user set: variables, the hub's token, and the name of the model."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path

from loadcheck.doctor.finding import Finding, Level, ok, problem, warning
from loadcheck.doctor.machine import Machine, TokenForm
from loadcheck.plan import LoadPlan
from loadcheck.specs.model import is_dynamic
from loadcheck.specs.profile import Profile
from loadcheck.stacks.unsloth_vllm.names import loaded_for

# Each with the trouble that it belongs to, and what becomes of it in a load of ours.
CHANGING = {
    "VLLM_USE_V1": "v1-engine",
    "UNSLOTH_USE_MODELSCOPE": "modelscope",
    "UNSLOTH_VLLM_STANDBY": "standby",
    "BNB_CUDA_VERSION": "bitsandbytes-library",
}
VARIABLES = (*CHANGING, "CUDA_VISIBLE_DEVICES", "HF_HUB_OFFLINE", "PYTORCH_CUDA_ALLOC_CONF")
UUIDS = ("GPU-", "MIG-")
SUFFIX = "-bnb-4bit"
_TRUE = ("1", "ON", "YES", "TRUE")  # huggingface_hub/constants.py:10


def check_visible_devices(machine: Machine, _: LoadPlan) -> Iterator[Finding]:
    """The forms of CUDA_VISIBLE_DEVICES that unsloth_zoo 2025.2.4 breaks with."""
    value = machine.variables.get("CUDA_VISIBLE_DEVICES")
    if value in (None, "0"):
        yield ok("visible-devices", "CUDA_VISIBLE_DEVICES is " + ("not set" if value is None else "0"))
    else:
        assert value is not None
        trouble_id = "visible-devices-uuid" if value.startswith(UUIDS) else "visible-devices"
        yield problem("visible-devices", f"CUDA_VISIBLE_DEVICES={value!r}: {_why_it_breaks(value)}", trouble_id)


def _why_it_breaks(value: str) -> str:
    if not value.strip() or value.startswith("-"):
        return "no GPU is visible"
    if value.startswith(UUIDS):
        return f"torch knows no device cuda:{value.partition(',')[0]}"
    if value.startswith("0,"):
        return "unsloth takes the first and warns of the others; this engine refuses it"
    return f"the one visible GPU is cuda:0, and cuda:{value.partition(',')[0]} is asked for"


def check_variables(machine: Machine, _: LoadPlan) -> Iterator[Finding]:
    """Variables that change a load, whether the engine unsets them or not."""
    for name, trouble_id in CHANGING.items():
        if machine.variables.get(name):
            yield warning("variables", f"{name} is set", trouble_id)
    if machine.variables.get("PYTORCH_CUDA_ALLOC_CONF"):
        yield Finding(check="variables", level=Level.WARNING, what="PYTORCH_CUDA_ALLOC_CONF is set",
                      why="unsloth overwrites it at its import, so it has no effect", remedy="unset it",
                      references=("unsloth/__init__.py:49-51",))  # fmt: skip


def check_offline(machine: Machine, plan: LoadPlan) -> Iterator[Finding]:
    """Whether a download that is needed is switched off."""
    offline = machine.variables.get("HF_HUB_OFFLINE", "").upper() in _TRUE
    if offline and plan.profile.weights == "hub" and not machine.has_weights:
        what = "HF_HUB_OFFLINE is set, and the weights are not in the cache yet"
        remedy = "unset HF_HUB_OFFLINE for the first load, or use --weights synthetic"
        yield problem("offline", what, "hub-offline", remedy=remedy)


def check_token(machine: Machine, plan: LoadPlan) -> Iterator[Finding]:
    """The form of the hub's token, never the token."""
    if plan.profile.weights != "hub":
        return
    for empty in machine.tokens:
        if empty.form == "empty":
            yield warning("token", f"{empty.source} is empty", "hub-token",
                          "this version of the hub's client takes it for none; others send it, and are refused",
                          "unset it")  # fmt: skip
    token = next((each for each in machine.tokens if each.form != "empty"), None)
    if token is None:
        yield ok("token", "no token of the hub is set", "the pinned checkpoint is public and needs none")
    elif token.form == "well-formed":
        yield ok("token", f"{token.source} is {token.form}", "whether the hub takes it shows at the download")
    else:
        what = f"{token.source} is {token.form}"
        why = "the hub refuses a bad token for public repositories too"
        yield problem(
            "token",
            what,
            "hub-token",
            why,
            f"unset it, as the pinned checkpoint needs none, or renew it ({token.source})",
        )


def token_form(text: str, now_s: float) -> TokenForm:
    """What a token looks like: hf_ and letters since 2022, api_ before, or a JSON web token with its date.

    White space around it is none of it, as for the hub's client (huggingface_hub/utils/_auth.py:214).
    """
    token = text.strip()
    if not token:
        return "empty"
    if token.startswith("api_"):
        return "of a retired form"
    jwt = token.removeprefix("hf_jwt_").removeprefix("hf_oauth_")
    if jwt.startswith("eyJ"):
        expires_s = _expires_s(jwt)
        return "malformed" if expires_s is None else "expired" if expires_s <= now_s else "well-formed"
    return "well-formed" if re.fullmatch(r"hf_[A-Za-z0-9]{30,}", token) else "malformed"


def _expires_s(jwt: str) -> float | None:
    """The date in a JSON web token; None where it is none."""
    try:
        payload = jwt.split(".")[1]
        data = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return float(data["exp"])
    except (IndexError, KeyError, TypeError, ValueError):
        return None


def check_model_name(_: Machine, plan: LoadPlan) -> Iterator[Finding]:
    """Whether unsloth will quantize what it loads: under vLLM it goes by the end of the name alone (vllm_utils.py:869)."""
    profile = plan.profile
    if not profile.fast_inference:
        return
    if profile.weights != "local":
        yield from _other_checkpoint(profile)
        yield ok("model-name", f"{plan.model_name} in {plan.quantization}, from a directory that is named accordingly",
                 f"this unsloth quantizes only what is named …{SUFFIX}, whatever load_in_4bit says")  # fmt: skip
        return
    name = Path(profile.model).expanduser().resolve().name
    named, quantized = name.lower().endswith(SUFFIX), plan.quantization == "nf4"
    if quantized and not named:
        yield problem(
            "model-name", f"{name} is quantized, and its name does not end in {SUFFIX}", "name-without-suffix"
        )
    elif named and not quantized:
        yield problem("model-name", f"{name} ends in {SUFFIX}, and its config.json has no quantization",
                      "suffix-without-quantization")  # fmt: skip
    elif profile.load_in_4bit and not named:
        yield problem("model-name", f"{name} will load in 16 bits, load_in_4bit or not", "silent-16bit")
    else:
        yield ok("model-name", f"{name} will load in {plan.quantization}, as its name says")


def _other_checkpoint(profile: Profile) -> Iterator[Finding]:
    """A script that gives unsloth this name loads a dynamic quant; a load of ours takes the plain checkpoint from a folder."""
    loaded = loaded_for(profile.model, profile.load_in_4bit)
    if "/" in profile.model and is_dynamic(loaded) and not is_dynamic(profile.model):
        yield Finding(check="model-name", level=Level.WARNING,
                      what=f"for {profile.model} unsloth itself loads {loaded}",
                      why="its own table of names sends it there (unsloth/models/mapper.py), so a script's figures may be others",
                      remedy="use_exact_model_name=True in a script; `loadcheck load` takes the plain one, from a folder",
                      references=("unsloth/models/loader_utils.py:23-120",))  # fmt: skip


def check_local_weights(machine: Machine, plan: LoadPlan) -> Iterator[Finding]:
    """Whether all that is opened of a local directory is data: a load refuses it otherwise (weights/opened.py)."""
    for each in machine.unsafe_weights:
        yield Finding(check="local-weights", level=Level.PROBLEM, what=f"{each.where}: {each.what}",
                      why="a pickle runs code when it is opened, and weights from elsewhere are not trusted",
                      remedy=each.remedy, references=("CVE-2025-32434",))  # fmt: skip
    if plan.profile.weights == "local" and not machine.unsafe_weights:
        yield ok("local-weights", "the weights are safetensors, and no pickle is opened")


CHECKS = (check_offline, check_token, check_local_weights)
GPU_CHECKS = (check_visible_devices, check_variables, check_model_name)
