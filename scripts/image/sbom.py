"""The image's bill of materials, CycloneDX 1.5, from its OCI layout and the locks: sbom.py LAYOUT OUT_FOLDER.

Writes sbom.cdx.json and licences.tsv. What is listed is what the image really holds: each package's metadata as it is in the
layers, and Debian's own list; the locks add the hashes that each package was installed by. The same image gives the same file.
"""

from __future__ import annotations

import json
import re
import sys
from email.parser import HeaderParser
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from layout import LayoutError, final_names, image_digest, layers

from loadcheck.manifest import LOCKS, licence_of, normalized

ENV = Path(__file__).resolve().parents[2] / "env"
METADATA = re.compile(r"site-packages/[^/]+\.dist-info/METADATA$")
DPKG_STATUS = "var/lib/dpkg/status"


def main() -> int:
    layout, out = Path(sys.argv[1]), Path(sys.argv[2])
    try:
        python, debian = read_packages(layout)
        components = sorted(
            [*(python_component(text) for text in python), *debian_components(debian)], key=lambda one: str(one["purl"])
        )
        document = sbom(image_digest(layout), components)
    except LayoutError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    out.mkdir(parents=True, exist_ok=True)
    (out / "sbom.cdx.json").write_text(json.dumps(document, indent=2) + "\n")
    (out / "licences.tsv").write_text(
        "".join(f"{licence_name(one)}\t{one['name']}\t{one['version']}\n" for one in components)
    )
    print(f"{out}/sbom.cdx.json: {len(components)} components")
    return 0


def read_packages(layout: Path) -> tuple[list[str], str]:
    """The METADATA of each Python package, and dpkg's list."""
    python, debian = [], ""
    for layer, names in zip(layers(layout), final_names(layout), strict=True):
        with layer.open() as tar:
            for entry in tar:
                name = str(PurePosixPath(entry.name))
                if name not in names or not (METADATA.search(name) or name == DPKG_STATUS):
                    continue
                file = tar.extractfile(entry)
                assert file is not None
                text = file.read().decode(errors="replace")
                if name == DPKG_STATUS:
                    debian = text
                else:
                    python.append(text)
    return python, debian


def python_component(metadata: str) -> dict[str, Any]:
    """One component from a wheel's METADATA, with the hashes that the lock allows for it."""
    headers = HeaderParser().parsestr(metadata)
    name = normalized(headers["Name"])
    return {
        "type": "library",
        "name": name,
        "version": headers["Version"],
        "purl": f"pkg:pypi/{name}@{headers['Version']}",
        "licenses": [{"license": {"name": licence_of(headers)}}],
        "properties": [{"name": "loadcheck:lock-sha256", "value": value} for value in locked_hashes().get(name, [])],
    }


def debian_components(status: str) -> list[dict[str, Any]]:
    packages = [HeaderParser().parsestr(paragraph) for paragraph in status.strip().split("\n\n") if paragraph]
    return [
        {
            "type": "library",
            "name": package["Package"],
            "version": package["Version"],
            "purl": f"pkg:deb/debian/{package['Package']}@{package['Version']}?arch={package['Architecture']}&distro=bookworm",
            "licenses": [{"license": {"name": "see the Debian package's copyright file"}}],
            "properties": [],
        }
        for package in packages
    ]


@cache
def locked_hashes() -> dict[str, list[str]]:
    """The SHA-256 of each file that the locks accept, by package."""
    text = "\n".join((ENV / lock).read_text() for lock in LOCKS)
    entries = re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE)
    found: dict[str, list[str]] = {}
    for entry in entries:
        name = normalized(entry.split("==")[0].strip())
        found[name] = re.findall(r"--hash=sha256:([0-9a-f]{64})", entry)
    return found


def licence_name(component: dict[str, Any]) -> str:
    return str(component["licenses"][0]["license"]["name"])


def sbom(digest: str, components: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": {"type": "container", "name": "loadcheck", "version": digest}},
        "components": components,
    }


if __name__ == "__main__":
    raise SystemExit(main())
