"""Read an image from its OCI layout, a folder with index.json and blobs: layout.py digest|size|root|config FOLDER

digest FOLDER         the digest of the image
size FOLDER           its layers, and the limits of env/image.toml: exit 1 if one is exceeded
config FOLDER         its config as lines of a Dockerfile, for docker import --change
root FOLDER           the root as one tar on stdout, in the order of the layers, without files that a later one replaces

Standard library only; layers are read through the zstd program.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

FACTS = Path(__file__).resolve().parents[2] / "env" / "image.toml"
WHITEOUT = ".wh."
EMPTY_LAYER_BYTES = 1_000
TWICE_LIMIT_BYTES = 20_000_000
"""Debian's package lists and the linker cache are written by each installing layer; nothing of ours may be stored twice."""


class LayoutError(Exception):
    """The folder holds no image; the message is for the user."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One stored layer, and the step that made it."""

    path: Path
    compressed_bytes: int
    made_by: str

    @contextmanager
    def open(self) -> Iterator[tarfile.TarFile]:
        """The layer's tar as a stream."""
        tool = {b"\x28\xb5": "zstd", b"\x1f\x8b": "gzip"}.get(self._magic(), "cat")
        command = [tool, "-dc", str(self.path)] if tool != "cat" else ["cat", str(self.path)]
        if shutil.which(tool) is None:
            raise LayoutError(f"{self.path}: {tool} is not on this machine; install {tool}")
        process = subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=1 << 20)
        assert process.stdout is not None
        with process, tarfile.open(fileobj=process.stdout, mode="r|", bufsize=1 << 20) as tar:
            yield tar
            while process.stdout.read(1 << 20):  # the padding behind the last entry, so that the tool ends well
                pass

    def _magic(self) -> bytes:
        with self.path.open("rb") as file:
            return file.read(2)


def blob(layout: Path, digest: str) -> Path:
    return layout / "blobs" / Path(*digest.split(":"))


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise LayoutError(f"{path}: no image layout ({error}); make it with scripts/image/oci") from None


def image_digest(layout: Path) -> str:
    return str(read_json(layout / "index.json")["manifests"][0]["digest"])


def image_config(layout: Path) -> Any:
    manifest = read_json(blob(layout, image_digest(layout)))
    return read_json(blob(layout, manifest["config"]["digest"]))


def layers(layout: Path) -> list[Layer]:
    manifest = read_json(blob(layout, image_digest(layout)))
    history = [entry for entry in image_config(layout).get("history", []) if not entry.get("empty_layer")]
    made_by = [entry.get("created_by", "").removeprefix("/bin/sh -c #(nop) ") for entry in history]
    made_by = ["", *made_by][-len(manifest["layers"]) :]  # a base that was imported as a file has no history
    return [
        Layer(blob(layout, layer["digest"]), layer["size"], made)
        for layer, made in zip(manifest["layers"], made_by, strict=True)
    ]


def show_size(layout: Path) -> int:
    """Print the layers and what is stored twice; returns 1 if a limit is exceeded."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    limits = tomllib.loads(FACTS.read_text())["limits"]
    seen: dict[str, int] = {}
    twice_bytes = 0
    compressed_bytes = 0
    print("compressed MB  unpacked MB   files  layer")
    all_layers = layers(layout)
    for layer in all_layers:
        unpacked_bytes = files = 0
        with layer.open() as tar:
            for entry in tar:
                if not entry.isfile():
                    continue
                files += 1
                unpacked_bytes += entry.size
                name = str(PurePosixPath(entry.name))
                twice_bytes += min(entry.size, seen.get(name, 0))
                seen[name] = entry.size
        compressed_bytes += layer.compressed_bytes
        print(f"{layer.compressed_bytes / 1e6:13.3f}  {unpacked_bytes / 1e6:11.3f} {files:7}  {layer.made_by[:70]}")
    print(
        f"{compressed_bytes / 1e6:13.3f}  {sum(seen.values()) / 1e6:11.3f} {len(seen):7}  the image; {twice_bytes} bytes are stored twice"
    )
    # Docker's builder ends with empty layers, such as WORKDIR's.
    code_layer_bytes = next(
        n for n in (layer.compressed_bytes for layer in reversed(all_layers)) if n > EMPTY_LAYER_BYTES
    )
    measured = (
        ("limits.compressed_bytes", compressed_bytes, limits["compressed_bytes"]),
        ("limits.unpacked_bytes", sum(seen.values()), limits["unpacked_bytes"]),
        ("limits.code_layer_bytes", code_layer_bytes, limits["code_layer_bytes"]),
        ("stored twice", twice_bytes, TWICE_LIMIT_BYTES),
    )
    over = [
        f"Error: env/image.toml: {name}: {value} bytes, more than {limit}; see what grew above"
        for name, value, limit in measured
        if value > limit
    ]
    print("\n".join(over), file=sys.stderr, end="\n" if over else "")
    return 1 if over else 0


def final_names(layout: Path) -> list[set[str]]:
    """For each layer, the names that it still provides in the end."""
    owner: dict[str, int] = {}
    for number, layer in enumerate(layers(layout)):
        with layer.open() as tar:
            for entry in tar:
                path = PurePosixPath(entry.name)
                if path.name.startswith(WHITEOUT):
                    gone = str(path.parent / path.name.removeprefix(WHITEOUT))
                    for name in [name for name in owner if name == gone or name.startswith(gone + "/")]:
                        del owner[name]
                else:
                    owner[str(path)] = number
    return [{name for name, number in owner.items() if number == layer} for layer in range(len(layers(layout)))]


def write_root(layout: Path, out: IO[bytes]) -> None:
    """Write the image's root as one tar stream of plain GNU entries."""
    names = final_names(layout)
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.GNU_FORMAT, bufsize=1 << 20) as root:
        for layer, wanted in zip(layers(layout), names, strict=True):
            with layer.open() as tar:
                for entry in tar:
                    if str(PurePosixPath(entry.name)) in wanted:
                        entry.pax_headers = {}
                        root.addfile(entry, tar.extractfile(entry) if entry.isfile() else None)


def dockerfile_lines(layout: Path) -> list[str]:
    """The image's config, one line each; a value with a space is quoted as JSON, which Docker reads."""
    config = image_config(layout)["config"]
    return [
        *(f"ENV {name}={json.dumps(value)}" for name, _, value in (line.partition("=") for line in config["Env"])),
        *(f"LABEL {name}={json.dumps(value)}" for name, value in sorted(config["Labels"].items())),
        f"USER {config['User']}",
        f"WORKDIR {config['WorkingDir']}",
        f"ENTRYPOINT {json.dumps(config['Entrypoint'])}",
        f"CMD {json.dumps(config['Cmd'])}",
    ]


def main() -> int:
    command, layout = sys.argv[1], Path(sys.argv[2])
    try:
        if command == "digest":
            print(image_digest(layout))
        elif command == "size":
            return show_size(layout)
        elif command == "config":
            print("\n".join(dockerfile_lines(layout)))
        elif command == "root":
            write_root(layout, sys.stdout.buffer)
        else:
            print(f"Error: layout.py: {command}: no such command; see its first lines", file=sys.stderr)
            return 2
    except LayoutError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
