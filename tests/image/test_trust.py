"""An image in a registry on loopback: what is pushed with a statement is taken, and nothing else."""

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
    """HOST:PORT of an empty one."""
    folder = storage
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
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
    end_s = time.monotonic() + 20
    while True:
        try:
            socket.create_connection((host, int(port))).close()
        except ConnectionRefusedError:
            assert time.monotonic() < end_s
            time.sleep(0.05)
        else:
            return


class Place:
    """A registry, a folder with what was built, one with what was pulled, and the keys."""

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
        """As pull does once the image has come."""
        subprocess.run(["bash", "-c", "source scripts/image/common; keep_statement"], cwd=ROOT, check=True,
                       env={**os.environ, "OUT": str(self.built)})  # fmt: skip

    def push(self, finished_on: str, key: str = "mine") -> str:
        """Push what is in `built/oci` with a statement of that day; returns its digest."""
        stated(self.built / "oci", self.keys / key, self.built / "provenance.json", finished_on)
        pushed = self.run("push", SIGN_KEY=str(self.keys / key))
        assert pushed.returncode == 0, pushed.stderr
        return pushed.stdout.strip().partition("@")[2]


@pytest.fixture
def place(registry: str, image: Path, keys: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setenv("COMMIT", "0" * 40)
    return Place(registry, image.parent, keys)


def rebuilt(place: Place, content: bytes) -> None:
    """Another image in its place: one layer more."""
    index = json.loads((place.built / "oci" / "index.json").read_text())
    manifest = json.loads(layout.blob(place.built / "oci", index["manifests"][0]["digest"]).read_text())
    manifest["layers"] += [provenance._put(place.built / "oci", content, "application/vnd.oci.image.layer.v1.tar")]
    write_index(place.built / "oci", manifest)


def test_what_was_signed_is_taken_and_what_was_not_is_refused(place: Place):
    """Its digest, and whose it is; by another's key nothing is taken."""
    digest = place.push(NEW)
    trusted = place.trust()
    assert (trusted.returncode, trusted.stdout.strip()) == (0, digest), trusted.stderr
    assert "signed by signer" in trusted.stderr
    refused = place.trust("other.pub")
    assert refused.returncode == 1 and refused.stdout == "" and "its key is none of" in refused.stderr


@pytest.mark.skipif(
    shutil.which("cosign") is None, reason="cosign is not installed; scripts/image/ci does (Debian 13 has it)"
)
def test_a_key_of_cosigns_is_as_good(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """By its public half, whose file names the signer, and by no other; nothing asks a network."""
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


def test_a_tag_that_was_moved_back_is_refused(place: Place):
    """To an older image of the same signer; by its digest it can be had."""
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
    """Such as one that somebody else pushed over it."""
    place.push(NEW)
    rebuilt(place, b"unsigned")
    assert place.run("push").returncode == 0
    refused = place.trust()
    assert refused.returncode == 1 and "has no statement" in refused.stderr


def test_a_layer_that_was_changed_in_the_registry_is_refused(place: Place, storage: Path):
    """Whoever fetches it by its digest finds out: here skopeo, as docker pull does."""
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
    """A stand-in for Docker's client; the file has what it was asked to pull."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "docker").write_text(DOCKER)
    (tmp_path / "bin" / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("PULLED", str(tmp_path / "asked"))
    return tmp_path / "asked"


def test_pull_takes_what_was_signed_by_its_digest(place: Place, docker: Path):
    """And remembers it as the newest, once it has come."""
    digest, kept = place.push(NEW), place.built / "pulled" / "provenance.json"
    signers = str(place.keys / "mine.pub")
    assert place.run("pull", SIGNERS=signers, REFUSES="1").returncode == 3 and not kept.exists()
    done = place.run("pull", SIGNERS=signers)
    assert done.returncode == 0, done.stderr
    assert set(docker.read_text().split()) == {f"{place.registry}/test@{digest}"}
    assert kept.exists() and kept.with_name("provenance.json.sig").exists()


def test_pull_asks_docker_for_nothing_that_is_not_signed(place: Place, docker: Path):
    """Exit 1 before anything is fetched."""
    place.push(NEW)
    assert place.run("pull", SIGNERS=str(place.keys / "other.pub")).returncode == 1
    assert not docker.exists()


def test_pull_without_a_digest_says_what_it_trusts(place: Place, docker: Path):
    """The registry's word; with one it says nothing."""
    digest = place.push(NEW)
    assert f"whatever {place.registry} calls latest today is taken on its word" in place.run("pull").stderr
    assert place.run("pull", DIGEST=digest).stderr == ""
    assert docker.read_text().split() == [f"{place.registry}/test:latest", f"{place.registry}/test@{digest}"]
