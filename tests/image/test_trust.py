"""A registry on loopback: an image pushed with a statement is accepted, and no other."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import ROOT
from tests.ports import free_port
from tests.test_provenance import NEW, OLD, image, keys, stated, write_index

sys.path.insert(0, str(ROOT / "scripts" / "image"))
provenance: Any = import_module("provenance")
layout: Any = import_module("layout")

__all__ = ["image", "keys"]

pytestmark = pytest.mark.skipif(
    None in map(shutil.which, ("skopeo", "docker-registry")),
    reason="skopeo and docker-registry are not installed; scripts/image/ci does",
)


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The registry's folder."""
    return tmp_path_factory.mktemp("registry")


@pytest.fixture(scope="module")
def registry(storage: Path) -> Iterator[str]:
    """HOST:PORT of an empty registry."""
    folder = storage
    address = f"127.0.0.1:{free_port()}"
    held = f"storage: {{ filesystem: {{ rootdirectory: {folder}/data }} }}"
    (folder / "registry.yml").write_text(
        f"version: 0.1\nlog: {{ level: error }}\n{held}\nhttp: {{ addr: {address} }}\n"
    )
    process = subprocess.Popen(
        ["docker-registry", "serve", str(folder / "registry.yml")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        _wait_for(address)
        yield address
    finally:
        process.kill()
        process.wait()


def _wait_for(address: str) -> None:
    host, _, port = address.partition(":")
    end_s = time.monotonic() + 120
    while True:
        try:
            socket.create_connection((host, int(port))).close()
        except ConnectionRefusedError:
            assert time.monotonic() < end_s
            time.sleep(0.05)
        else:
            return


class Place:
    """A registry, folders with the built and the pulled image, and the keys."""

    def __init__(self, registry: str, built: Path, keys: Path) -> None:
        self.registry, self.built, self.keys = registry, built, keys

    def run(self, script: str, *words: str, **more: str) -> "subprocess.CompletedProcess[str]":
        own = {
            "REGISTRY": self.registry,
            "TLS_VERIFY": "false",
            "OUT": str(self.built),
            "IMAGE": "test",
            "TAG": "latest",
        }
        command = [str(ROOT / "scripts" / "image" / script), *words]
        return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **own, **more}, check=False)

    def trust(self, signers: str = "mine.pub", **more: str) -> "subprocess.CompletedProcess[str]":
        return self.run("trust", f"{self.registry}/test", SIGNERS=str(self.keys / signers), **more)

    def take(self) -> None:
        """Verify like pull, after the image has come."""
        subprocess.run(["bash", "-c", "source scripts/image/common; keep_statement"], cwd=ROOT, check=True,
                       env={**os.environ, "OUT": str(self.built)})  # fmt: skip

    def push(self, finished_on: str, key: str = "mine") -> str:
        """Push `built/oci` with a statement of that day; returns its digest."""
        stated(self.built / "oci", self.keys / key, self.built / "provenance.json", finished_on)
        pushed = self.run("push", SIGN_KEY=str(self.keys / key))
        assert pushed.returncode == 0, pushed.stderr
        return pushed.stdout.strip().partition("@")[2]


@pytest.fixture
def place(registry: str, image: Path, keys: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setenv("COMMIT", "0" * 40)
    return Place(registry, image.parent, keys)


def rebuilt(place: Place, content: bytes) -> None:
    """Replace the image by another one with one more layer."""
    index = json.loads((place.built / "oci" / "index.json").read_text())
    manifest = json.loads(layout.blob(place.built / "oci", index["manifests"][0]["digest"]).read_text())
    manifest["layers"] += [provenance._put(place.built / "oci", content, "application/vnd.oci.image.layer.v1.tar")]
    write_index(place.built / "oci", manifest)


def test_only_a_signed_image_is_accepted(place: Place):
    """Accepted with its digest and signer; with another's key nothing is accepted."""
    digest = place.push(NEW)
    trusted = place.trust()
    assert (trusted.returncode, trusted.stdout.strip()) == (0, digest), trusted.stderr
    assert "signed by signer" in trusted.stderr
    refused = place.trust("other.pub")
    assert refused.returncode == 1 and refused.stdout == "" and "its key is none of" in refused.stderr


@pytest.mark.skipif(
    shutil.which("cosign") is None, reason="cosign is not installed; scripts/image/ci does (Debian 13 has it)"
)
def test_a_key_of_cosign_is_accepted(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """cosign's public key verifies, and its file names the signer; no other key does, and no network is used."""
    monkeypatch.setenv("COSIGN_PASSWORD", "")
    for name in ("HTTPS_PROXY", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name in ("mine", "other"):
        command = ["cosign", "generate-key-pair", "--output-key-prefix", name]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    place = Place(place.registry, place.built, tmp_path)
    digest = place.push(NEW, "mine.key")
    trusted = place.trust()
    assert (trusted.returncode, trusted.stdout.strip()) == (0, digest), trusted.stderr
    assert "signed by mine.pub" in trusted.stderr
    refused = place.trust("other.pub")
    assert refused.returncode == 1 and refused.stdout == "" and "is not signed by" in refused.stderr


def test_a_tag_moved_back_is_refused(place: Place):
    """A tag moved back to an older image of the same signer is refused; by its digest that image is accepted."""
    old = place.push(OLD)
    rebuilt(place, b"newer")
    assert place.push(NEW) != old
    assert place.trust().returncode == 0
    place.take()
    assert place.run("trust", f"{place.registry}/test", SIGNERS=str(place.keys / "mine.pub")).returncode == 0
    subprocess.run(["skopeo", "copy", "--quiet", "--src-tls-verify=false", "--dest-tls-verify=false",
                    f"docker://{place.registry}/test@{old}", f"docker://{place.registry}/test:latest"], check=True)  # fmt: skip
    moved = place.trust()
    assert moved.returncode == 1 and "the tag was moved back" in moved.stderr
    assert place.trust(DIGEST=old).returncode == 0


def test_a_tag_without_a_statement_is_refused(place: Place):
    """A tag without a statement, such as one that somebody else pushed, is refused."""
    place.push(NEW)
    rebuilt(place, b"unsigned")
    assert place.run("push").returncode == 0
    refused = place.trust()
    assert refused.returncode == 1 and "has no statement" in refused.stderr


def test_a_layer_changed_in_the_registry_is_refused(place: Place, storage: Path):
    """Fetching a changed layer by its digest fails, here with skopeo, as in docker pull."""
    rebuilt(place, b"a layer of its own")
    digest = place.push(NEW)
    name = next(
        path
        for path in (place.built / "oci" / "blobs" / "sha256").iterdir()
        if path.read_bytes() == b"a layer of its own"
    ).name
    next(storage.rglob(f"{name}/data")).write_bytes(b"a layer of its OWN")
    command = [
        "skopeo",
        "copy",
        "--quiet",
        "--src-tls-verify=false",
        f"docker://{place.registry}/test@{digest}",
        f"dir:{place.built}/got",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0 and "igest" in done.stderr


DOCKER = """#!/bin/bash
case "$1" in
version) echo 26.1.5 ;;
info) echo / ;;
pull) echo "$2" >>"$PULLED"; [ -z "${REFUSES:-}" ] ;;
esac
"""


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for Docker's client; the file records what it was asked to pull."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "docker").write_text(DOCKER)
    (tmp_path / "bin" / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("PULLED", str(tmp_path / "asked"))
    return tmp_path / "asked"


def test_pull_fetches_a_signed_image_by_digest(place: Place, docker: Path):
    """The pulled image is remembered as the newest once it has come."""
    digest, kept = place.push(NEW), place.built / "pulled" / "provenance.json"
    signers = str(place.keys / "mine.pub")
    assert place.run("pull", SIGNERS=signers, REFUSES="1").returncode == 3 and not kept.exists()
    done = place.run("pull", SIGNERS=signers)
    assert done.returncode == 0, done.stderr
    assert set(docker.read_text().split()) == {f"{place.registry}/test@{digest}"}
    assert kept.exists() and kept.with_name("provenance.json.sig").exists()


def test_pull_fetches_nothing_unsigned(place: Place, docker: Path):
    """An unsigned image exits 1 before anything is fetched."""
    place.push(NEW)
    assert place.run("pull", SIGNERS=str(place.keys / "other.pub")).returncode == 1
    assert not docker.exists()


def test_pull_without_a_digest_says_that_it_trusts_the_registry(place: Place, docker: Path):
    """Without a digest pull says that it trusts the registry; with one it does not."""
    digest = place.push(NEW)
    assert f"this trusts whatever {place.registry} calls latest today" in place.run("pull").stderr
    assert place.run("pull", DIGEST=digest).stderr == ""
    assert docker.read_text().split() == [f"{place.registry}/test:latest", f"{place.registry}/test@{digest}"]
