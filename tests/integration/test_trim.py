"""The only edit of an installed file: made once, in its own copy, and only if the file is the reviewed one."""

import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest
import tomli_w

from tests.conftest import ROOT

OLD, NEW = "splits = -1\n", "splits = None\n"


def digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()


def patched(tmp_path: Path, text: str) -> tuple[int, str, Path]:
    """trim.py --patch on a file that shares its bytes with a cache: the exit code, the output, and the cache's file."""
    site, cache = tmp_path / "site", tmp_path / "cached.py"
    site.mkdir(exist_ok=True)
    cache.write_text(text)
    (site / "a.py").unlink(missing_ok=True)
    os.link(cache, site / "a.py")
    entry = {"path": "a.py", "old": "-1", "new": "None", "sha256_before": digest(OLD), "sha256_after": digest(NEW)}
    (tmp_path / "image.toml").write_text(tomli_w.dumps({"patch": [entry], "strip": [], "prune": []}))
    command = [
        sys.executable,
        str(ROOT / "scripts/image/inside/trim.py"),
        str(tmp_path / "image.toml"),
        str(site),
        "--patch",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr, cache


@pytest.mark.parametrize("text", [OLD, NEW])
def test_an_edit_is_made_once_in_a_copy(tmp_path: Path, text: str):
    """Whether a cache has the original or an edited file, the environment's is edited, and the cache's is not."""
    assert patched(tmp_path, text)[0] == 0
    assert (tmp_path / "site" / "a.py").read_text() == NEW
    assert (tmp_path / "cached.py").read_text() == text
    assert list((tmp_path / "site" / "__pycache__").glob("a.*.pyc"))


def test_another_file_is_not_edited(tmp_path: Path):
    """An unreviewed file is not edited, and its hash is named."""
    code, output, _ = patched(tmp_path, "other")
    assert code == 2 and "patch.a.py: sha256_before is" in output
    assert (tmp_path / "site" / "a.py").read_text() == "other"
