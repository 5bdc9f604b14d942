"""The listing of a commit on the hub: git's hash of each file, and the SHA-256 of those in LFS.

It verifies even the first download: with the commit's id, which env/models pins, no cache or mirror on the way has to be trusted to serve
the commit's files.
"""

from __future__ import annotations

from fnmatch import fnmatch
from hashlib import sha1
from pathlib import Path

from loadcheck.disk import hash_of
from loadcheck.specs.files import Spec
from loadcheck.specs.model import Checkpoint
from loadcheck.weights.lock import LockedFile


class ListedFile(Spec, frozen=True, kw_only=True):
    """One file of a commit.

    Args:
        blob_id: git's hash of it (SHA-1); for a file in LFS, that of its pointer, which is not downloaded.
        sha256: of a file in LFS; None for other files.
    """

    path: str
    size_bytes: int
    blob_id: str
    sha256: str | None = None

    def difference(self, root: Path, file: LockedFile) -> str | None:
        """How the file below `root`, whose size and SHA-256 are `file`, differs from the commit's; None if it does not."""
        if file.size_bytes != self.size_bytes:
            return f"has {file.size_bytes} bytes, not the commit's {self.size_bytes}"
        if self.sha256 is not None:
            same = file.sha256 == self.sha256
            return None if same else f"has the SHA-256 {file.sha256}, not the commit's {self.sha256}"
        blob_id = git_blob_id(root / self.path)
        return None if blob_id == self.blob_id else f"is the git blob {blob_id}, not the commit's {self.blob_id}"


def git_blob_id(path: Path) -> str:
    """Git's object id of a file: the SHA-1 of "blob", its length and its bytes (git-hash-object(1))."""
    return str(hash_of(path, sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)).hexdigest())


def list_commit(checkpoint: Checkpoint, patterns: tuple[str, ...]) -> tuple[ListedFile, ...]:
    """The files of a checkpoint's pinned commit that match one of `patterns`, as the hub lists them (HF_ENDPOINT).

    Raises the errors of the hub's client: see `hub.explained`.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    tree = HfApi().list_repo_tree(checkpoint.repo, recursive=True, revision=checkpoint.revision)
    return tuple(
        ListedFile(path=one.path, size_bytes=one.size, blob_id=one.blob_id, sha256=one.lfs.sha256 if one.lfs else None)
        for one in tree
        if isinstance(one, RepoFile) and any(fnmatch(one.path, pattern) for pattern in patterns)
    )
