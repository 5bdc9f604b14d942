"""What is to be served: a profile's model, or that of a run or an export with its adapters, and further adapters on the same base."""

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
AS_SERVED = {"engine": "gpu", "loader": "vllm", "fast_inference": True, "adapters": None}
"""What of a profile a server needs: its engine alone. Its adapters come from folders."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a server is asked to serve.

    Attributes:
        base_files: SHA-256 of the base's files of weights, where an export says them.
        merged: the folder of a merged model, which is its own base.
        adapters: folders by name, the first is the one that SOURCE has.
        ranks: of the adapters.
    """

    plan: LoadPlan
    merged: Path | None = None
    base_files: Mapping[str, str] | None = None
    adapters: dict[str, Path] = field(default_factory=dict)
    ranks: tuple[int, ...] = ()

    @property
    def rank(self) -> int | None:
        """The --max-lora-rank that takes all of them; BadInput where none does."""
        if not self.ranks:
            return None
        found = served_rank(max(self.ranks))
        if found is None:
            what = f"rank {max(self.ranks)} is above {MAX_SERVED_RANK}, the highest that is served"
            raise BadInput(Problem("adapters", what, "export it with --merged, and serve that"))
        return found


def asked(source: str, more: Iterable[tuple[str, Path]], settings: dict[str, Any]) -> Asked:
    """What SOURCE (a folder or a profile) and the further adapters come to; BadInput for what does not go together."""
    path = Path(source)
    found = _of_folder(path, settings) if path.is_dir() else Asked(make_plan(_served(load_profile(source), settings)))
    for name, folder in more:
        found = _with(found, name, folder)
    found.rank  # noqa: B018: it refuses what nothing serves
    return found


def _served(profile: Profile, settings: dict[str, Any]) -> Profile:
    return changed(profile, AS_SERVED | settings)


def _of_folder(path: Path, settings: dict[str, Any]) -> Asked:
    if not (path / PROOF).exists():
        adapter = read_adapter(path)
        plan = make_plan(_served(adapter.plan.profile, settings))
        return Asked(plan, adapters={_name(adapter.record.id): adapter.path}, ranks=(adapter.rank,))
    proof = proven(path)
    profile = plan_from_json(proof.plan).profile
    if proof.form == "merged":
        own = {"model": str(path.absolute()), "weights": "local", "load_in_4bit": False}
        return Asked(make_plan(_served(profile, own | settings)), merged=path)
    name = {_name(path.resolve().name): path}
    return Asked(make_plan(_served(profile, settings)), base_files=proof.base_files, adapters=name, ranks=(proof.rank,))


def _with(found: Asked, name: str, folder: Path) -> Asked:
    """With one adapter more; BadInput where it is of another base, or its name is taken or none."""
    if NAME.fullmatch(name) is None or name in (*found.adapters, found.plan.model_name):
        raise BadInput(Problem("command line", f"{name!r:.40} is taken or no name", "letters and digits", "--adapter"))
    of_export = (folder / PROOF).exists()
    one: Proof | Adapter = proven(folder) if of_export else read_adapter(folder)
    base = one.plan["model_name"] if isinstance(one, Proof) else one.plan.model_name
    other_files = isinstance(one, Proof) and found.base_files is not None and one.base_files != found.base_files
    if found.merged is not None or base != found.plan.model_name or other_files:
        what = f"is of the base {base}, and {found.plan.model_name} is served"
        raise BadInput(Problem(str(folder), what, "serve it beside adapters on the same base", "--adapter"))
    path = folder if isinstance(one, Proof) else one.path
    return Asked(found.plan, None, found.base_files, {**found.adapters, name: path}, (*found.ranks, one.rank))


def _name(text: str) -> str:
    """A model name that requests can ask for."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", text).lstrip("._-")[:100] or "adapter"
