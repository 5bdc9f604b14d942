"""Layers in zstd chunks: a file can be fetched by its range, as lazy pullers do, and the whole is the same root."""

import hashlib
import io
import json
import random
import shutil
import subprocess
import sys
import tarfile
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "scripts" / "image"))
chunked: Any = import_module("chunked")
layout: Any = import_module("layout")

pytestmark = pytest.mark.skipif(
    None in map(shutil.which, ("skopeo", "zstd")), reason="skopeo and zstd are not installed; scripts/image/ci does"
)
FILES = {f"opt/venv/{number}.py": f"print({number})\n".encode() * 50 for number in range(40)}
FILES["opt/venv/large.so"] = random.Random(0).randbytes(300_000)


def tar_of(files: dict[str, bytes], padding_bytes: int) -> bytes:
    """A tar as Go writes it, with 1024 zeros at the end, or as GNU tar does, with more."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
        end = tar.offset
    return buffer.getvalue()[:end] + bytes(padding_bytes)


def image(folder: Path, *layers: bytes) -> Path:
    """An uncompressed OCI layout of these tars."""

    def put(data: bytes, kind: str) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        (folder / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
        (folder / "blobs" / "sha256" / digest).write_bytes(data)
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": f"sha256:{digest}", "size": len(data)}

    stored = [put(layer, "layer.v1.tar") for layer in layers]
    rootfs = {"type": "layers", "diff_ids": [layer["digest"] for layer in stored]}
    config = put(
        json.dumps({"architecture": "amd64", "os": "linux", "config": {}, "rootfs": rootfs}).encode(), "config.v1+json"
    )
    manifest = {"schemaVersion": 2, "mediaType": chunked.MANIFEST_TYPE, "config": config, "layers": stored}
    entry = {
        **put(json.dumps(manifest).encode(), "manifest.v1+json"),
        "annotations": {"org.opencontainers.image.ref.name": "latest"},
    }
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    (folder / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    return folder


def manifest_of(folder: Path) -> Any:
    return layout.read_json(layout.blob(folder, layout.image_digest(folder)))


def unpacked(data: bytes) -> bytes:
    return subprocess.run(["zstd", "-dcq"], input=data, capture_output=True, check=True).stdout


def fetch(folder: Path, layer: dict[str, Any], name: str) -> tuple[bytes, int]:
    """A file fetched by the layer's table and its own range, and how many bytes were read for both."""
    at, size, _, _ = map(int, layer["annotations"][chunked.TABLE].split(":"))
    data = layout.blob(folder, layer["digest"]).read_bytes()
    table = json.loads(unpacked(data[at : at + size]))
    (entry,) = (each for each in table["entries"] if each["name"].removeprefix("./") == name and each["type"] == "reg")
    pieces = data[entry["offset"] : entry["endOffset"]]
    assert f"sha256:{hashlib.sha256(unpacked(pieces)).hexdigest()}" == entry["digest"]
    return unpacked(pieces), size + len(pieces)


def test_a_file_can_be_fetched_by_its_range(tmp_path: Path):
    """The table at a layer's end has a file's position and hash; little else is read."""
    made = image(tmp_path / "oci", tar_of(FILES, 1024))
    assert chunked.convert(made, tmp_path / "chunks", "3") == []
    (layer,) = manifest_of(tmp_path / "chunks")["layers"]
    data, read_bytes = fetch(tmp_path / "chunks", layer, "opt/venv/7.py")
    assert data == FILES["opt/venv/7.py"]
    assert read_bytes < layer["size"] / 10


def test_the_root_and_its_config_are_unchanged(tmp_path: Path):
    """The list of layers (diff_ids) is unchanged and correct, and so is the config; a second run gives the same bytes."""
    made = image(tmp_path / "oci", tar_of(FILES, 1024), tar_of({"etc/a": b"a"}, 1024))
    digests = set()
    for name in ("one", "two"):
        chunked.convert(made, tmp_path / name, "3")
        digests.add(layout.image_digest(tmp_path / name))
    assert len(digests) == 1
    assert layout.image_config(tmp_path / "one") == layout.image_config(made)
    for layer, content in zip(
        manifest_of(tmp_path / "one")["layers"], layout.image_config(made)["rootfs"]["diff_ids"], strict=True
    ):
        assert chunked.unpacked_digest(layout.blob(tmp_path / "one", layer["digest"])) == content


def test_a_layer_that_would_change_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """skopeo 1.9 drops GNU tar's padding, and the engine would refuse the layer: it is named, and not changed."""
    made = image(tmp_path / "oci", tar_of({"etc/a": b"a"}, 10240), tar_of(FILES, 1024))
    monkeypatch.setattr(sys, "argv", ["chunked.py", str(made), str(tmp_path / "chunks"), "3"])
    assert chunked.main() == 0
    first, second = manifest_of(tmp_path / "chunks")["layers"]
    output = capsys.readouterr()
    assert output.out.strip() == layout.image_digest(tmp_path / "chunks")
    contents = layout.image_config(made)["rootfs"]["diff_ids"]
    if chunked.TABLE not in first.get("annotations", {}):  # a newer skopeo keeps it whole
        assert first == manifest_of(made)["layers"][0] and f"{first['digest']}: stays as it is" in output.err
    assert chunked.TABLE in second["annotations"]
    assert layout.blob(tmp_path / "chunks", first["digest"]).exists() and contents[1] != second["digest"]


def test_the_image_can_be_copied(tmp_path: Path):
    """The image can be copied like any other, with its digest."""
    made = image(tmp_path / "oci", tar_of(FILES, 1024))
    chunked.convert(made, tmp_path / "chunks", "3")
    command = [
        "skopeo",
        "copy",
        "--quiet",
        "--preserve-digests",
        f"oci:{tmp_path}/chunks:latest",
        f"oci:{tmp_path}/there:latest",
    ]
    subprocess.run(command, check=True)
    assert layout.image_digest(tmp_path / "there") == layout.image_digest(tmp_path / "chunks")


def test_a_folder_without_an_image_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """A folder without an image exits 2 with one line."""
    monkeypatch.setattr(sys, "argv", ["chunked.py", str(tmp_path), str(tmp_path / "chunks")])
    assert chunked.main() == 2
    assert capsys.readouterr().err.startswith("Error: ")
