"""Reads the run to export, and checks that it has adapters that others can use."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadcheck.errors import BadInput, Problem
from loadcheck.exporting.proof import VERDICT_NOTE, refuse_unsafe
from loadcheck.plan import LoadPlan, plan_from_json
from loadcheck.runs.checkpoints import changed_files, files_of
from loadcheck.runs.folder import RunFolder
from loadcheck.runs.json_file import own_file
from loadcheck.runs.record import RunRecord
from loadcheck.stacks.serving import MAX_SERVED_RANK, rank_flag

ADAPTER = "adapter_model.safetensors"
CONFIG = "adapter_config.json"


@dataclass(frozen=True, slots=True)
class Adapter:
    """The adapters of a finished training.

    Attributes:
        config: the content of adapter_config.json.
        verdict: the training's: pass, fail, refused or skipped; None if there is none.
    """

    folder: RunFolder
    record: RunRecord
    plan: LoadPlan
    config: dict[str, Any]
    verdict: str | None

    @property
    def path(self) -> Path:
        return self.folder.adapter_path

    @property
    def rank(self) -> int:
        """The highest rank of any linear."""
        return max([int(self.config["r"]), *map(int, (self.config.get("rank_pattern") or {}).values())])

    def notes(self, merged: bool) -> list[str]:
        """What users of the export must know."""
        notes = []
        if not merged and (flag := rank_flag(self.rank)) is not None:
            notes.append(f"rank {self.rank} is above a server's default: serve it with {flag}")
        if self.verdict != "pass":
            notes.append(f"{VERDICT_NOTE} {self.verdict or 'missing'}: see `loadcheck report`")
        return notes


def read_adapter(run: Path) -> Adapter:
    """The adapters of a run; BadInput lists every reason why they cannot be exported."""
    folder = RunFolder(run)
    record = folder.read_record()
    _refuse_unfinished(run, folder, record)
    changed = changed_files(folder.adapter_path)
    if changed:
        what = f"is not what was trained ({', '.join(changed)})"
        raise BadInput(Problem(str(folder.adapter_path), what, "export another run, or train again"))
    for path in files_of(folder.adapter_path):
        own_file(path)
    refuse_unsafe(folder.adapter_path, "adapters")
    config = _object(folder.adapter_path / CONFIG)
    problems = list(_unservable(str(folder.adapter_path / CONFIG), config))
    if problems:
        raise BadInput(problems)
    return Adapter(folder, record, plan_from_json(_object(folder.plan_path)), config, _verdict(folder))


def _object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; BadInput if there is none."""
    try:
        found = json.loads(own_file(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(Problem(str(path), f"cannot be read ({error})", "export another run, or train again")) from None
    if not isinstance(found, dict):
        raise BadInput(Problem(str(path), "is not a JSON object", "export another run, or train again"))
    return found


def _refuse_unfinished(run: Path, folder: RunFolder, record: RunRecord) -> None:
    if record.training is None:
        raise BadInput(Problem(str(run), "is a load, which leaves no adapters", "give the folder of a training"))
    if not folder.adapter_path.is_dir() or folder.adapter_path.is_symlink():
        what = f"has no adapters: the training is {record.outcome}"
        raise BadInput(Problem(str(run), what, "finish it with `loadcheck train --resume`"))
    if not own_file(folder.probe_path).is_file():
        what = "has no probe.safetensors, against which an export is checked"
        raise BadInput(Problem(str(run), what, "train again: earlier versions of loadcheck did not write it"))


def _unservable(where: str, config: dict[str, Any]) -> Iterator[Problem]:
    """Problems of adapters that are not plain LoRA: a server would silently ignore parts of them, or refuse them."""
    if type(config.get("r")) is not int:
        yield Problem(where, "has no rank", "train again", "r")
    if config.get("peft_type") != "LORA" or config.get("use_dora"):
        yield Problem(
            where, "is not plain LoRA", "train LoRA adapters", "use_dora" if config.get("use_dora") else "peft_type"
        )
    if config.get("modules_to_save"):
        what = f"{', '.join(config['modules_to_save'])}: fully trained modules, which the server does not support in adapters"
        yield Problem(where, what, "train without it", "modules_to_save")
    if config.get("bias", "none") != "none":
        yield Problem(where, "the server does not support a trained bias", "train with bias none", "bias")


def refuse_rank(adapter: Adapter) -> None:
    """BadInput for adapters of a rank that no server supports."""
    if adapter.rank > MAX_SERVED_RANK:
        what = f"rank {adapter.rank} is above {MAX_SERVED_RANK}, the highest that can be served"
        raise BadInput(Problem(str(adapter.path), what, "export it with --merged", "r"))


def _verdict(folder: RunFolder) -> str | None:
    try:
        verdict = json.loads(own_file(folder.verdict_path).read_text(encoding="utf-8"))["verdict"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return verdict if isinstance(verdict, str) else None
