"""A download with the pinned hub client, from a stand-in for the hub on loopback."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from loadcheck.plan import make_plan
from loadcheck.specs.profile import load_profile
from tests.conftest import ROOT
from tests.stand_in_hub import Hub, serving

PYTHON = ROOT / ".venv" / "cpu" / "bin" / "python"
FETCH = """
import sys
from loadcheck.errors import LoadcheckError
from loadcheck.plan import make_plan
from loadcheck.specs.profile import load_profile
from loadcheck.weights import prepare
try:
    print(prepare(make_plan(load_profile("llama31-8b-instruct-4bit"))))
except LoadcheckError as error:
    sys.exit(str(error))
"""

pytestmark = [
    pytest.mark.cpu,
    pytest.mark.skipif(not PYTHON.exists(), reason=".venv/cpu is not installed; `make test` installs it"),
]


@pytest.fixture
def hub() -> Iterator[Hub]:
    checkpoint = make_plan(load_profile("llama31-8b-instruct-4bit")).checkpoint
    assert checkpoint is not None and checkpoint.revision is not None
    names = (
        "config.json",
        "generation_config.json",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
    )
    files = {name: f'{{"name": "{name}"}}'.encode() for name in names}
    files |= {"model.safetensors": bytes(range(256)) * 98304, "README.md": b"not fetched"}
    with serving(Hub(checkpoint.repo, checkpoint.revision, files)) as running:
        yield running


def fetch(hub: Hub, cache: Path) -> subprocess.CompletedProcess[str]:
    kept = {key: value for key, value in os.environ.items() if "proxy" not in key.lower() and not key.startswith("HF_")}
    own = {
        "HF_ENDPOINT": hub.url,
        "LOADCHECK_CACHE": str(cache),
        "HF_HOME": str(cache / "hf"),
        "PYTHONPATH": str(ROOT / "src"),
    }
    return subprocess.run([PYTHON, "-c", FETCH], capture_output=True, text=True, env=kept | own, check=False)


def test_the_commits_files_are_fetched(hub: Hub, tmp_path: Path):
    """Six of seven listed files are fetched, and reported as not yet in env/weights.lock."""
    done = fetch(hub, tmp_path)
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.strip())
    assert sorted(path.name for path in folder.iterdir()) == sorted({*hub.files, "manifest.json"} - {"README.md"})
    assert "6 files were not in env/weights.lock yet" in done.stderr


def test_an_interrupted_download_is_continued(hub: Hub, tmp_path: Path):
    """A second request asks only for the missing part; the client keeps whole pieces of 10 MiB (constants.py, DOWNLOAD_CHUNK_SIZE)."""
    hub.cut = {"model.safetensors"}
    done = fetch(hub, tmp_path)
    assert done.returncode == 0, done.stderr
    asked = [wanted for method, path, wanted in hub.asked if method == "GET" and path.endswith(".safetensors")]
    assert asked[0] is None and asked[1] == f"bytes={10 << 20}-"


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_bytes_that_the_commit_does_not_list_are_refused(hub: Hub, tmp_path: Path, name: str):
    """A mirror that sends other bytes of the same length, in LFS or not, is detected at the first download; the next fetches that file again."""
    hub.sent = {name: hub.files[name][::-1]}
    done = fetch(hub, tmp_path)
    assert done.returncode == 1 and f"{name}: " in done.stderr and "the commit's" in done.stderr
    hub.sent, hub.asked = {}, []
    assert fetch(hub, tmp_path).returncode == 0
    assert [
        path for method, path, _ in hub.asked if method == "GET" and path.endswith(f"resolve/{hub.revision}/{name}")
    ]


def test_a_missing_commit_is_reported(hub: Hub, tmp_path: Path):
    """A missing commit is reported with the status and no traceback."""
    hub.revision = "0" * 40
    done = fetch(hub, tmp_path)
    assert done.returncode == 1 and "the hub answered 404" in done.stderr
