"""Resolves what to serve: a profile's model, or that of a run or an export with its adapters, and further adapters on the same base."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loadcheck.errors import BadInput, Problem
from loadcheck.exporting.proof import PROOF, Proof, proven
from loadcheck.exporting.source import Adapter, read_adapter
from loadcheck.plan import LoadPlan, make_plan, plan_from_json
from loadcheck.specs.files import changed
from loadcheck.specs.profile import Profile, load_profile
from loadcheck.stacks.serving import MAX_SERVED_RANK, served_rank

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
SERVER_SETTINGS = {"engine": "gpu", "loader": "vllm", "fast_inference": True, "adapters": None}
"""The profile settings of every server: it runs vLLM alone, and its adapters come from folders."""


@dataclass(frozen=True, slots=True)
class ServeRequest:
    """What to serve.

    Attributes:
        merged: the folder of a merged model, which is its own base.
        base_files: SHA-256 of the base's weight files, if an export states them.
        adapters: folders by name; the first is that of SOURCE.
        ranks: the adapters' ranks.
    """

    plan: LoadPlan
    merged: Path | None = None
    base_files: Mapping[str, str] | None = None
    adapters: dict[str, Path] = field(default_factory=dict)
    ranks: tuple[int, ...] = ()

    @property
    def rank(self) -> int | None:
        """The --max-lora-rank for all adapters; BadInput if one is too high."""
        if not self.ranks:
            return None
        found = served_rank(max(self.ranks))
        if found is None:
            what = f"rank {max(self.ranks)} is above {MAX_SERVED_RANK}, the highest that can be served"
            raise BadInput(Problem("adapters", what, "export it with --merged, and serve that"))
        return found


def resolve_request(source: str, more: Iterable[tuple[str, Path]], settings: dict[str, Any]) -> ServeRequest:
    """Resolve SOURCE (a folder or a profile) and further adapters; BadInput if they cannot be served together."""
    path = Path(source)
    if path.is_dir():
        request = _of_folder(path, settings)
    else:
        request = ServeRequest(make_plan(_served(load_profile(source), settings)))
    for name, folder in more:
        request = _with_adapter(request, name, folder)
    request.rank  # noqa: B018: raises BadInput for a rank that cannot be served
    return request


def _served(profile: Profile, settings: dict[str, Any]) -> Profile:
    return changed(profile, SERVER_SETTINGS | settings)


def _of_folder(path: Path, settings: dict[str, Any]) -> ServeRequest:
    if not (path / PROOF).exists():
        adapter = read_adapter(path)
        plan = make_plan(_served(adapter.plan.profile, settings))
        return ServeRequest(plan, adapters={_name(adapter.record.id): adapter.path}, ranks=(adapter.rank,))
    proof = proven(path)
    profile = plan_from_json(proof.plan).profile
    if proof.form == "merged":
        own = {"model": str(path.absolute()), "weights": "local", "load_in_4bit": False}
        return ServeRequest(make_plan(_served(profile, own | settings)), merged=path)
    adapters = {_name(path.resolve().name): path}
    plan = make_plan(_served(profile, settings))
    return ServeRequest(plan, base_files=proof.base_files, adapters=adapters, ranks=(proof.rank,))


def _with_adapter(request: ServeRequest, name: str, folder: Path) -> ServeRequest:
    """The request with one more adapter; BadInput if it is of another base, or its name is taken or invalid."""
    if NAME.fullmatch(name) is None or name in (*request.adapters, request.plan.model_name):
        what = f"{name!r:.40} is taken, or not a valid name"
        raise BadInput(Problem("command line", what, "use letters and digits", "--adapter"))
    of_export = (folder / PROOF).exists()
    one: Proof | Adapter = proven(folder) if of_export else read_adapter(folder)
    base = one.plan["model_name"] if isinstance(one, Proof) else one.plan.model_name
    other_files = isinstance(one, Proof) and request.base_files is not None and one.base_files != request.base_files
    if request.merged is not None or base != request.plan.model_name or other_files:
        what = f"has the base {base}, but {request.plan.model_name} is served"
        raise BadInput(Problem(str(folder), what, "serve it with adapters on the same base", "--adapter"))
    path = folder if isinstance(one, Proof) else one.path
    adapters, ranks = {**request.adapters, name: path}, (*request.ranks, one.rank)
    return ServeRequest(request.plan, None, request.base_files, adapters, ranks)


def _name(text: str) -> str:
    """A valid model name for requests to the server."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", text).lstrip("._-")[:100] or "adapter"
