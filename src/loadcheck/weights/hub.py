"""Weights from the Hugging Face hub: one pinned revision, downloaded once, every file checked."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

from loadcheck.errors import BadInput, LoadcheckError, Problem, UnsupportedMachine
from loadcheck.plan import LoadPlan
from loadcheck.specs.model import Checkpoint
from loadcheck.specs.shape import Quantization
from loadcheck.weights.cache import RECORD, build_once, weights_dir
from loadcheck.weights.listing import ListedFile, list_commit
from loadcheck.weights.lock import LockedFile, hash_files, load_weights_lock, read_hashed, to_json
from loadcheck.weights.progress import reporting_progress

PATTERNS = ("*.json", "*.safetensors", "tokenizer*")
RETRY_WAITS_S = (1.0, 5.0, 20.0, 60.0, None)
"""Wait after each try of a download whose connection broke; None gives up."""

Snapshot = Callable[[Checkpoint, Path], tuple[ListedFile, ...]]
"""Downloads a checkpoint into a folder, and returns the hub's listing of its commit."""


def prepare(plan: LoadPlan, snapshot: Snapshot | None = None) -> Path:
    """The directory of the plan's checkpoint, downloaded if necessary; a broken download is resumed.

    BadInput for a file that differs from its locked or recorded hash, UnsupportedMachine if the hub cannot be reached or refuses.
    """
    checkpoint, revision = pinned(plan)
    # One folder per revision; the revision is not in the directory's own name, as unsloth parses that.
    folder = weights_dir() / revision[:12]

    def build(directory: Path) -> None:
        listed = (snapshot or download)(checkpoint, directory)
        shutil.rmtree(directory / ".cache", ignore_errors=True)  # the downloader's metadata
        check(directory, checkpoint, listed, folder / RECORD)

    return build_once(
        folder / directory_name(checkpoint, plan.quantization), build, _known_bytes(checkpoint), keep_partial=True
    )


def pinned(plan: LoadPlan) -> tuple[Checkpoint, str]:
    """The plan's checkpoint and its revision; BadInput if none is known."""
    checkpoint = plan.checkpoint
    if checkpoint is None or checkpoint.revision is None:
        what = f"no pinned revision of {plan.model_name} is known"
        raise BadInput(Problem("env/models", what, "add it, or use weights = 'local' or 'synthetic'", "checkpoints"))
    return checkpoint, checkpoint.revision


def directory_name(checkpoint: Checkpoint, quantization: Quantization) -> str:
    """The directory's name, which ends in -bnb-4bit if quantized: unsloth_zoo decides by the name (vllm_utils.py:869 at 2025.2.4)."""
    base = checkpoint.repo.rsplit("/", 1)[-1].lower()
    return base if quantization == "16bit" or base.endswith("-bnb-4bit") else f"{base}-bnb-4bit"


def locked_files(checkpoint: Checkpoint) -> tuple[LockedFile, ...]:
    """The files that env/weights.lock has for this repository at this revision; empty if it has none."""
    for model in load_weights_lock().models.values():
        if (model.repo, model.revision) == (checkpoint.repo, checkpoint.revision):
            return model.files
    return ()


def _known_bytes(checkpoint: Checkpoint) -> int:
    return sum(file.size_bytes for file in locked_files(checkpoint) if file.size_bytes != "unknown")


def check(directory: Path, checkpoint: Checkpoint, listed: tuple[ListedFile, ...], record: Path) -> None:
    """Compare every file with the commit's listing, and with the lock or, if the lock lacks it, with `record`, to which new files are added.

    A file that differs is deleted, so that the next try downloads it again. BadInput with every problem at once.
    """
    found = {file.path: file for file in hash_files(directory)}
    recorded = read_hashed(record) if record.exists() else ()
    expected = {file.path: file for file in recorded} | {
        file.path: file for file in locked_files(checkpoint) if file.is_known
    }
    of_commit = {file.path: file for file in listed}
    wanted = of_commit.keys() | {file.path for file in locked_files(checkpoint)} | {"config.json"}
    problems = [
        Problem(f"{checkpoint.repo}/{path}", "is not there", "download again") for path in sorted(wanted - found.keys())
    ]
    for path, file in found.items():
        difference = _difference(directory, file, of_commit.get(path), expected.get(path))
        if difference is not None:
            (directory / path).unlink()
            problems.append(Problem(f"{checkpoint.repo}/{path}", difference, "download again"))
    if problems:
        raise BadInput(problems)
    _record({path: file for path, file in found.items() if path not in expected}, recorded, record)


def _difference(root: Path, file: LockedFile, listed: ListedFile | None, expected: LockedFile | None) -> str | None:
    if listed is None:
        return "is not in the commit's listing"
    return (None if expected is None else expected.difference(file)) or listed.difference(root, file)


def _record(new: dict[str, LockedFile], recorded: tuple[LockedFile, ...], record: Path) -> None:
    """Add the hashes of files that were downloaded for the first time, and print a note."""
    if new:
        record.write_bytes(to_json((*recorded, *new.values())))
        print(
            f"{len(new)} files were not in env/weights.lock yet. They match the commit's listing; their sizes and hashes are now in "
            f"{record}, are checked from now on, and may be added to the lock (loadcheck weights record)",
            file=sys.stderr,
        )


def download(checkpoint: Checkpoint, directory: Path) -> tuple[ListedFile, ...]:
    """Download the checkpoint into `directory`, several files in parallel, resuming an earlier try; returns the commit's listing.

    The token, if one is needed, is read from HF_TOKEN and never shown.
    """
    # huggingface_hub reads these once, on import. hf_transfer neither resumes nor reports what went wrong.
    os.environ["HF_HUB_ENABLE_HF_TRANSFER"] = "0"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    try:
        listed = list_commit(checkpoint, PATTERNS)
        with reporting_progress(directory, sum(file.size_bytes for file in listed)):
            _fetch(checkpoint, directory)
    except Exception as error:
        raise explained(checkpoint, error) from error
    return listed


def _fetch(checkpoint: Checkpoint, directory: Path) -> None:
    """Download, and resume after a broken connection, at which the client itself gives up (seen at 0.28.1, tests/integration/test_hub_download.py)."""
    from huggingface_hub import snapshot_download
    from requests import ConnectionError as NoConnection
    from requests import Timeout
    from requests.exceptions import ChunkedEncodingError

    for wait_s in RETRY_WAITS_S:
        try:
            snapshot_download(
                checkpoint.repo, revision=checkpoint.revision, local_dir=directory, allow_patterns=list(PATTERNS)
            )
        except (NoConnection, ChunkedEncodingError, Timeout):
            if wait_s is None:
                raise
            print(f"the connection broke; resuming in {wait_s:.0f} s", file=sys.stderr, flush=True)
            time.sleep(wait_s)
        else:
            return


def explained(checkpoint: Checkpoint, error: Exception) -> Exception:
    """An error of the hub's client as one of ours; a full disk and unknown errors unchanged."""
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
