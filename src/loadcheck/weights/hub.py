"""Weights from the Hugging Face hub: one pinned revision, downloaded once, every file checked."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from loadcheck.errors import BadInput, LoadcheckError, Problem, UnsupportedMachine
from loadcheck.plan import LoadPlan
from loadcheck.specs.model import Checkpoint
from loadcheck.specs.shape import Quantization
from loadcheck.weights.cache import build_once, weights_dir
from loadcheck.weights.lock import LockedFile, hash_files, load_weights_lock, to_json

PATTERNS = ("*.json", "*.safetensors", "tokenizer*")

Snapshot = Callable[[Checkpoint, Path], None]


def prepare(plan: LoadPlan, snapshot: Snapshot | None = None) -> Path:
    """The directory of the plan's checkpoint, downloaded if it has not been; a broken download goes on where it was.

    BadInput for a file that is not as locked or recorded, UnsupportedMachine where the hub cannot be reached or refuses.
    """
    checkpoint, revision = pinned(plan)
    # The revision above it, so that another one is another folder; the name itself is what unsloth goes by.
    folder = weights_dir() / revision[:12]

    def build(directory: Path) -> None:
        (snapshot or download)(checkpoint, directory)
        shutil.rmtree(directory / ".cache", ignore_errors=True)  # the downloader's notes
        check(directory, checkpoint, folder / "recorded.json")

    return build_once(
        folder / directory_name(checkpoint, plan.quantization), build, _known_bytes(checkpoint), keep_partial=True
    )


def pinned(plan: LoadPlan) -> tuple[Checkpoint, str]:
    """The plan's checkpoint and its revision; BadInput where none is known."""
    checkpoint = plan.checkpoint
    if checkpoint is None or checkpoint.revision is None:
        what = f"no pinned revision of {plan.model_name} is known"
        raise BadInput(Problem("env/models", what, "add it, or use weights = 'local' or 'synthetic'", "checkpoints"))
    return checkpoint, checkpoint.revision


def directory_name(checkpoint: Checkpoint, quantization: Quantization) -> str:
    """Ends in -bnb-4bit where it is quantized: unsloth_zoo goes by the name (vllm_utils.py:869 at 2025.2.4)."""
    base = checkpoint.repo.rsplit("/", 1)[-1].lower()
    return base if quantization == "16bit" or base.endswith("-bnb-4bit") else f"{base}-bnb-4bit"


def locked_files(checkpoint: Checkpoint) -> tuple[LockedFile, ...]:
    """The files that env/weights.lock has for this repository at this revision; none for one that is not there."""
    for model in load_weights_lock().models.values():
        if (model.repo, model.revision) == (checkpoint.repo, checkpoint.revision):
            return model.files
    return ()


def _known_bytes(checkpoint: Checkpoint) -> int:
    return sum(file.size_bytes for file in locked_files(checkpoint) if file.size_bytes != "unknown")


def check(directory: Path, checkpoint: Checkpoint, record: Path) -> None:
    """Compare every file with the lock, and where the lock does not know it with `record`, which gets what is new.

    A file that differs is removed, so that the next try fetches it again. BadInput with every problem at once.
    """
    found = {file.path: file for file in hash_files(directory)}
    recorded = msgspec.json.decode(record.read_bytes(), type=tuple[LockedFile, ...]) if record.exists() else ()
    expected = {file.path: file for file in recorded} | {
        file.path: file for file in locked_files(checkpoint) if file.is_known
    }
    wanted = {file.path for file in locked_files(checkpoint)} | {"config.json"}
    problems = [Problem(f"{checkpoint.repo}/{path}", "is not there", "download again") for path in wanted - set(found)]
    for path in sorted(set(expected) & set(found)):
        if (difference := expected[path].difference(found[path])) is not None:
            (directory / path).unlink()
            problems.append(Problem(f"{checkpoint.repo}/{path}", difference, "download again"))
    if problems:
        raise BadInput(problems)
    _record({path: file for path, file in found.items() if path not in expected}, recorded, record)


def _record(new: dict[str, LockedFile], recorded: tuple[LockedFile, ...], record: Path) -> None:
    """Add the hashes of the files that were seen for the first time, and say so."""
    if new:
        record.write_bytes(to_json((*recorded, *new.values())))
        print(
            f"{len(new)} files were not in env/weights.lock yet: their sizes and hashes are now in {record}, "
            "are checked from now on, and may be committed to the lock",
            file=sys.stderr,
        )


def download(checkpoint: Checkpoint, directory: Path) -> None:
    """Fetch the checkpoint into `directory`; the token, if one is needed, is taken from HF_TOKEN and never shown."""
    # Read once, at the import. hf_transfer neither resumes nor says what went wrong.
    os.environ["HF_HUB_ENABLE_HF_TRANSFER"] = "0"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    from huggingface_hub import snapshot_download

    try:
        snapshot_download(
            checkpoint.repo, revision=checkpoint.revision, local_dir=directory, allow_patterns=list(PATTERNS)
        )
    except Exception as error:
        raise explained(checkpoint, error) from error


def explained(checkpoint: Checkpoint, error: Exception) -> Exception:
    """What the hub's client raises, in words; a full disk and what is unknown as they are."""
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError
    from requests import RequestException

    where = f"hub repository {checkpoint.repo}"
    if isinstance(error, GatedRepoError | RepositoryNotFoundError):
        remedy = (
            "accept its licence on the hub and set HF_TOKEN to a token of that account, or use weights = 'synthetic'"
        )
        return _refused(where, "is gated, private or gone, and no token that may read it is set", remedy)
    if isinstance(error, HfHubHTTPError) and not isinstance(error, LocalEntryNotFoundError):
        status = error.response.status_code if error.response is not None else "no status"
        return _refused(where, f"the hub answered {status} at revision {checkpoint.revision}", "try again later")
    if isinstance(error, LocalEntryNotFoundError | RequestException | ConnectionError):
        remedy = "go online (unset HF_HUB_OFFLINE), or use weights = 'local' or 'synthetic'"
        return _refused(where, "the hub cannot be reached", remedy)
    return error


def _refused(where: str, what: str, remedy: str) -> LoadcheckError:
    return UnsupportedMachine(Problem(where, what, remedy, "weights"))
