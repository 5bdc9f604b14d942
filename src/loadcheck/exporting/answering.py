"""Generates an answer with a trained model: an export, or a run's adapters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from loadcheck.errors import BadInput, Problem
from loadcheck.exporting.child import run_step
from loadcheck.exporting.export import NEEDED, adapter_request, request_of
from loadcheck.exporting.proof import PROOF, proven
from loadcheck.exporting.source import read_adapter
from loadcheck.plan import plan_from_json
from loadcheck.preparing import require


def generate(source: Path, prompt: str, max_new_tokens: int, on_text: Callable[[str], None]) -> dict[str, Any]:
    """The answer of the model in `source`; `on_text` is called with each piece as it arrives.

    Raises:
        BadInput: it is neither an export nor a training, or differs from its proof, or its base is another one.
        UnsupportedMachine: this environment lacks a package.
    """
    request = _request(source)
    require(NEEDED, plan_from_json(request["plan"]).profile)
    return run_step("answer", {**request, "prompt": prompt, "max_new_tokens": max_new_tokens}, on_text)


def _request(source: Path) -> dict[str, Any]:
    if (source / PROOF).exists():
        return request_of(source, proven(source))
    if not (source / "run.json").exists():
        neither = "is neither an export (proof.json is missing) nor a run (run.json is missing)"
        what = neither if source.is_dir() else "no such folder"
        raise BadInput(Problem(str(source), what, "give a folder that `loadcheck export` or `loadcheck train` wrote"))
    return adapter_request(read_adapter(source))
