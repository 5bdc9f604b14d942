"""The image's bill of materials, CycloneDX 1.5, from its OCI layout and the locks: sbom.py LAYOUT OUT_FOLDER.

Writes sbom.cdx.json, licences.tsv and vex.openvex.json, which explains known vulnerabilities of the packages (env/vex.toml). It lists what the
image really holds: the metadata of each package in the layers, and Debian's own list; the locks add the hashes that each package was installed
by. The same image gives the same files.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from email.parser import HeaderParser
from functools import cache
from pathlib import Path, PurePosixPath

from cyclonedx.model import Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import DisjunctiveLicense
from cyclonedx.output.json import JsonV1Dot5
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from layout import LayoutError, final_names, image_digest, layers
from packageurl import PackageURL
from packaging.utils import canonicalize_name
from vex import load_holes, openvex

from loadcheck.manifest import LOCKS, licence_of

ENV = Path(__file__).resolve().parents[2] / "env"
METADATA = re.compile(r"site-packages/[^/]+\.dist-info/METADATA$")
DPKG_STATUS = "var/lib/dpkg/status"


def main() -> int:
    layout, out = Path(sys.argv[1]), Path(sys.argv[2])
    try:
        python, debian = read_packages(layout)
        components = sorted([*map(python_component, python), *debian_components(debian)], key=lambda one: str(one.purl))
        document = sbom(image_digest(layout), components)
    except LayoutError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    out.mkdir(parents=True, exist_ok=True)
    (out / "sbom.cdx.json").write_text(document + "\n")
    (out / "licences.tsv").write_text(
        "".join(f"{licence_name(one)}\t{one.name}\t{one.version}\n" for one in components)
    )
    (out / "vex.openvex.json").write_text(openvex(image_digest(layout), load_holes()) + "\n")
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


def python_component(metadata: str) -> Component:
    """A component from a wheel's METADATA, with the hashes that the lock allows for it."""
    headers = HeaderParser().parsestr(metadata)
    name, version = canonicalize_name(headers["Name"]), headers["Version"]
    hashes = locked_hashes().get(name, [])
    properties = [Property(name="loadcheck:lock-sha256", value=value) for value in hashes]
    return library(PackageURL("pypi", name=name, version=version), licence_of(headers), properties)


def debian_components(status: str) -> list[Component]:
    """A component for each paragraph of dpkg's list."""
    packages = [HeaderParser().parsestr(paragraph) for paragraph in status.strip().split("\n\n") if paragraph]
    return [
        library(
            PackageURL(
                "deb", "debian", each["Package"], each["Version"], {"arch": each["Architecture"], "distro": "bookworm"}
            ),
            "see the Debian package's copyright file",
        )
        for each in packages
    ]


def library(purl: PackageURL, licence: str, properties: Iterable[Property] = ()) -> Component:
    """A component named by its package URL."""
    return Component(
        type=ComponentType.LIBRARY,
        bom_ref=str(purl),
        name=purl.name,
        version=purl.version,
        purl=purl,
        licenses=[DisjunctiveLicense(name=licence)],
        properties=properties,
    )


@cache
def locked_hashes() -> dict[str, list[str]]:
    """The SHA-256 of each file that the locks accept, by package."""
    text = "\n".join((ENV / lock).read_text() for lock in LOCKS)
    entries = re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE)
    found: dict[str, list[str]] = {}
    for entry in entries:
        name = canonicalize_name(entry.split("==")[0].strip())
        found[name] = re.findall(r"--hash=sha256:([0-9a-f]{64})", entry)
    return found


def licence_name(component: Component) -> str:
    return next(licence.name or "" for licence in component.licenses if isinstance(licence, DisjunctiveLicense))


def sbom(digest: str, components: list[Component]) -> str:
    """The document as JSON, checked against its schema; it has no time or serial number, so the same image gives the same document."""
    bom = Bom(components=components)
    image = Component(type=ComponentType.CONTAINER, bom_ref="loadcheck", name="loadcheck", version=digest)
    bom.metadata.component = image
    bom.register_dependency(image, components)
    document = json.loads(JsonV1Dot5(bom).output_as_string())
    del document["serialNumber"], document["metadata"]["timestamp"]
    text = json.dumps(document, indent=2)
    if error := JsonStrictValidator(SchemaVersion.V1_5).validate_str(text):
        raise LayoutError(f"the bill of materials is not as CycloneDX 1.5 has it: {error}")
    return text


if __name__ == "__main__":
    raise SystemExit(main())
