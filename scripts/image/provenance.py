"""The statement of where the image comes from, for build, push and pull: provenance.py write|sign|verify|check|pack|unpack …

write LAYOUT FILE                 state what the image in LAYOUT was built from: commit, locks, base; unsigned
sign FILE KEY                     sign it with an SSH key, as FILE.sig
verify FILE SIGNERS DIGEST [SEEN] refuse it if it is not signed by one of SIGNERS, is of another image, or is older than SEEN: exit 1
check LAYOUT                      refuse a layout with a blob that does not match its digest: exit 1
pack FILE LAYOUT                  FILE and FILE.sig as an OCI image of two layers, which any registry accepts
unpack LAYOUT FILE                the reverse
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timezone
from hashlib import sha256
from pathlib import Path
from typing import Any

from layout import LayoutError, blob, image_digest, read_json

from loadcheck import signature
from loadcheck.errors import LoadcheckError
from loadcheck.provenance import BUILD_TYPE, NAMESPACE, PREDICATE, TYPE, verify

ROOT = Path(__file__).resolve().parents[2]
LOCKS = ("env/requirements.lock", "env/smollm2.lock", "env/tools.lock", "env/image.toml", "Dockerfile")
"""Every file besides the code that decides what is in the image."""
BUILDER = "urn:loadcheck:builder:buildah"
CONFIG_TYPE, MANIFEST_TYPE = "application/vnd.oci.image.config.v1+json", "application/vnd.oci.image.manifest.v1+json"
LAYER_TYPES = ("application/vnd.in-toto+json", "application/vnd.loadcheck.sshsig")
CHUNK_BYTES = 1 << 20


def statement(layout: Path, finished_on: str) -> dict[str, Any]:
    """What `write` writes. The base is BASE, or the Dockerfile's own; a name without a digest gets none here."""
    base = os.environ.get("BASE") or _default_base()
    commit, modified = _source()
    dependencies = [{"name": "source", "digest": {"gitCommit": commit}}] if commit else []
    dependencies += [
        {"name": name, "digest": {"sha256": sha256((ROOT / name).read_bytes()).hexdigest()}} for name in LOCKS
    ]
    _, at, digest = base.partition("@sha256:")
    dependencies += [{"name": "base", "uri": base, **({"digest": {"sha256": digest}} if at else {})}]
    return {
        "_type": TYPE,
        "subject": [{"name": "loadcheck", "digest": {"sha256": image_digest(layout).removeprefix("sha256:")}}],
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {"base": base, "modified": modified},
                "resolvedDependencies": dependencies,
            },
            "runDetails": {
                "builder": {"id": os.environ.get("BUILDER") or BUILDER},
                "metadata": {"finishedOn": finished_on},
            },
        },
    }


def _default_base() -> str:
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    return next(line.partition("=")[2] for line in lines if line.startswith("ARG BASE="))


def _source() -> tuple[str | None, bool]:
    """The commit as given to the build, and whether files differ from it; None outside a checkout."""
    commit = os.environ.get("COMMIT") or _git("rev-parse", "HEAD")
    return commit or None, bool(_git("status", "--porcelain", "--untracked-files=no"))


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def changed_blobs(layout: Path) -> Iterator[str]:
    """Each blob of the image that is missing or does not match its digest: manifest, config and layers."""
    digest = image_digest(layout)
    if (why := _changed(layout, digest)) is not None:
        yield why  # what it names cannot be trusted then
        return
    manifest = read_json(blob(layout, digest))
    for each in (manifest["config"], *manifest["layers"]):
        if (why := _changed(layout, each["digest"])) is not None:
            yield why


def _changed(layout: Path, digest: str) -> str | None:
    path, found = blob(layout, digest), sha256()
    if not path.is_file():
        return f"{digest} is missing"
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            found.update(chunk)
    return None if digest == f"sha256:{found.hexdigest()}" else f"{digest} was changed"


def pack(file: Path, layout: Path) -> None:
    """Write the layout of an image whose two layers are the statement and its signature."""
    contents = (file.read_bytes(), file.with_name(file.name + ".sig").read_bytes())
    layers = [_put(layout, *pair) for pair in zip(contents, LAYER_TYPES, strict=True)]
    rootfs = {"type": "layers", "diff_ids": [layer["digest"] for layer in layers]}
    config = _put(layout, json.dumps({"architecture": "amd64", "os": "linux", "rootfs": rootfs}).encode(), CONFIG_TYPE)
    manifest = {"schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": config, "layers": layers}
    entry = _put(layout, json.dumps(manifest).encode(), MANIFEST_TYPE)
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))


def _put(layout: Path, content: bytes, media_type: str) -> dict[str, Any]:
    digest = f"sha256:{sha256(content).hexdigest()}"
    path = blob(layout, digest)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return {"mediaType": media_type, "digest": digest, "size": len(content)}


def unpack(layout: Path, file: Path) -> None:
    """Write the statement to `file`, and its signature beside it."""
    layers = read_json(blob(layout, image_digest(layout)))["layers"]
    found = {layer["mediaType"]: blob(layout, layer["digest"]).read_bytes() for layer in layers}
    if set(found) != set(LAYER_TYPES):
        raise LayoutError(f"{layout}: holds no statement; push it again with SIGN_KEY=")
    file.write_bytes(found[LAYER_TYPES[0]])
    file.with_name(file.name + ".sig").write_bytes(found[LAYER_TYPES[1]])


def faults_of(file: Path, signers: Path, digest: str, seen: Path | None) -> list[str]:
    """Why the image is refused; prints its signer if it is not."""
    found = verify(file, signers, digest, seen)
    if not found.faults:
        commit = found.statement.dependency("source").get("gitCommit", "an unknown commit")
        print(f"{digest}: built from {commit} on {found.statement.finished_on}, signed by {found.signer}")
    return list(found.faults)


def main() -> int:
    what, *words = sys.argv[1:]
    paths = [Path(word) for word in words]
    try:
        return run(what, words, paths)
    except (LayoutError, LoadcheckError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2


def run(what: str, words: list[str], paths: list[Path]) -> int:
    """Run one of the commands above."""
    faults: list[str] = []
    if what == "write":
        finished_on = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        paths[1].write_text(json.dumps(statement(paths[0], finished_on), indent=2) + "\n")
    elif what == "sign":
        signature.sign(paths[0], paths[1], NAMESPACE)
    elif what == "verify":
        faults = faults_of(paths[0], paths[1], words[2], paths[3] if len(paths) > 3 else None)
    elif what == "check":
        faults = list(changed_blobs(paths[0]))
    else:
        {"pack": pack, "unpack": unpack}[what](paths[0], paths[1])
    for fault in faults:
        print(f"Error: {words[0]}: {fault}; take no image of which this is said", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
