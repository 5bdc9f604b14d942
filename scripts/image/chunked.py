"""The image with its layers in zstd chunks, file by file, so that a lazy puller fetches only the files that are read: chunked.py LAYOUT OUT [LEVEL]

OUT is a layout of the same root and config with another digest. The chunks and the table at each layer's end are zstd:chunked
(containers/storage, pkg/chunked), written by skopeo; for other pullers a layer is plain zstd. Each layer is unpacked again and compared with
the image's own list (diff_ids): skopeo 1.9 changes a tar with more padding than Go writes, so such a layer is kept as it was. Exit codes: 0 if
every layer is in chunks or named, 2 if there is no image or no skopeo.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from hashlib import sha256
from pathlib import Path
from typing import Any

from layout import LayoutError, blob, image_config, image_digest, read_json

TAG = "latest"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
TABLE = "io.containers.zstd-chunked.manifest-position"
"""The annotation with the position of a layer's table."""


def main() -> int:
    layout, out, level = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else "9"
    try:
        kept = convert(layout, out, level)
    except LayoutError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    for digest in kept:
        print(f"{digest}: stays as it is; in chunks it would be another layer", file=sys.stderr)
    print(image_digest(out))
    return 0


def convert(layout: Path, out: Path, level: str) -> list[str]:
    """Write OUT, and return the layers that are not in chunks; LayoutError if there is no image, or it cannot be read or written."""
    before = read_json(blob(layout, image_digest(layout)))
    contents = image_config(layout)["rootfs"]["diff_ids"]
    shutil.rmtree(out, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as made:
        after = read_json(blob(Path(made), _by_skopeo(layout, Path(made), level)))
        layers, kept = [], []
        for old, new, content in zip(before["layers"], after["layers"], contents, strict=True):
            whole = unpacked_digest(blob(Path(made), new["digest"])) == content
            layers.append(new if whole else old)
            _copy_blob(Path(made) if whole else layout, layers[-1]["digest"], out)
            if not whole:
                kept.append(old["digest"])
    _copy_blob(layout, before["config"]["digest"], out)
    _finish(out, {**before, "layers": layers})
    return kept


def _by_skopeo(layout: Path, made: Path, level: str) -> str:
    """The digest of the image that skopeo writes into `made`."""
    command = ["skopeo", "copy", "--quiet", "--dest-compress-format", "zstd:chunked", "--dest-compress-level", level]
    environment = {**os.environ, "TMPDIR": str(made)}  # gigabytes: on the disk of the image
    try:
        done = subprocess.run(
            [*command, f"oci:{layout}", f"oci:{made}:{TAG}"],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        raise LayoutError("skopeo: not found on this machine; install skopeo 1.9 or newer") from None
    if done.returncode:
        raise LayoutError(
            f"{layout}: cannot be written in chunks ({done.stderr.strip()[-300:]}); see that the disk has room"
        )
    return str(image_digest(made))


def unpacked_digest(layer: Path) -> str:
    """The sha256 of an unpacked layer, as in diff_ids."""
    found = sha256()
    with subprocess.Popen(["zstd", "-dc", str(layer)], stdout=subprocess.PIPE, bufsize=1 << 20) as process:
        assert process.stdout is not None
        while piece := process.stdout.read(1 << 20):
            found.update(piece)
    return f"sha256:{found.hexdigest()}"


def _copy_blob(layout: Path, digest: str, out: Path) -> None:
    target = blob(out, digest)
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        shutil.copyfile(blob(layout, digest), target)


def _finish(out: Path, manifest: dict[str, Any]) -> None:
    """The manifest and the index; readers of a layout find it once both are there."""
    data = json.dumps(manifest, separators=(",", ":")).encode()
    digest = f"sha256:{sha256(data).hexdigest()}"
    blob(out, digest).write_bytes(data)
    entry = {"mediaType": MANIFEST_TYPE, "digest": digest, "size": len(data)}
    entry["annotations"] = {"org.opencontainers.image.ref.name": TAG}
    (out / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    (out / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))


if __name__ == "__main__":
    raise SystemExit(main())
