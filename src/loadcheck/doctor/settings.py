"""Checks of what the user set: environment variables, the hub's token, and a folder of weights."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator

from loadcheck.machine import Finding, Level, Machine, TokenForm, ok, problem, warning
from loadcheck.plan import LoadPlan
from loadcheck.stacks.serving import known_holes

OFFLINE = "HF_HUB_OFFLINE"
VARIABLES = ("CUDA_VISIBLE_DEVICES", OFFLINE)
"""The variables that doctor itself reads; each stack lists those that change its own loads."""
_TRUE = ("1", "ON", "YES", "TRUE")  # huggingface_hub/constants.py:10


def check_offline(machine: Machine, plan: LoadPlan) -> Iterator[Finding]:
    """Whether offline mode prevents a download that is needed."""
    offline = machine.variables.get(OFFLINE, "").upper() in _TRUE
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
                          "this version of the hub's client ignores it; others send it, and are refused",
                          "unset it")  # fmt: skip
    token = next((token for token in machine.tokens if token.form != "empty"), None)
    if token is None:
        yield ok("token", "no token of the hub is set", "the pinned checkpoint is public and needs none")
    elif token.form == "well-formed":
        yield ok("token", f"{token.source} is {token.form}", "only the download shows whether the hub accepts it")
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
    """The form of a token: hf_ and letters since 2022, api_ before, or a JSON web token with its expiry date.

    White space around it is ignored, as by the hub's client (huggingface_hub/utils/_auth.py:214).
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
    """The expiry date of a JSON web token; None if it is not one."""
    try:
        payload = jwt.split(".")[1]
        data = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return float(data["exp"])
    except (IndexError, KeyError, TypeError, ValueError):
        return None


def check_local_weights(machine: Machine, plan: LoadPlan) -> Iterator[Finding]:
    """Whether all files that a load opens in a local directory are pure data; a load refuses others (weights/opened.py)."""
    for weights in machine.unsafe_weights:
        yield Finding(check="local-weights", level=Level.PROBLEM, what=f"{weights.where}: {weights.what}",
                      why="a pickle runs code when it is opened, and weights from elsewhere are not trusted",
                      remedy=weights.remedy, references=("CVE-2025-32434",))  # fmt: skip
    if plan.profile.weights == "local" and not machine.unsafe_weights:
        yield ok("local-weights", "the weights are safetensors, and no pickle is opened")


def check_server(_: Machine, plan: LoadPlan) -> Iterator[Finding]:
    """The known vulnerabilities of the stack's server; a load does not start it."""
    if not plan.profile.on_cpu:
        holes = [name for names, _ in known_holes() for name in names]
        what = f"`loadcheck serve` starts a server with {len(holes)} known vulnerabilities: {', '.join(holes)}"
        yield ok("server", what, "a load does not start it; put a gateway in front of it (SECURITY.md)")


CHECKS = (check_offline, check_token, check_local_weights, check_server)
