"""The image's bill of materials: its layers' contents, in a document that follows CycloneDX's schema."""

import json
import sys
from importlib import import_module
from typing import Any

import pytest
from cyclonedx.output.json import JsonV1Dot5

from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "scripts" / "image"))
sbom: Any = import_module("sbom")

WHEEL = "Name: Torch\nVersion: 2.5.1\nLicense: BSD-3-Clause\n\n"
DEBIAN = "Package: openssl\nVersion: 3.0.15-1~deb12u1\nArchitecture: amd64\n\nPackage: libc6\nVersion: 2.36-9\nArchitecture: amd64\n"


def _components():
    return [sbom.python_component(WHEEL), *sbom.debian_components(DEBIAN)]


def test_each_package_is_a_component_with_its_hashes():
    """Each component has its package URL, which scanners look up; a wheel has the hashes of the lock."""
    document = json.loads(sbom.sbom("sha256:abc", _components()))
    found = {component["purl"]: component for component in document["components"]}
    assert set(found) == {"pkg:pypi/torch@2.5.1", "pkg:deb/debian/openssl@3.0.15-1~deb12u1?arch=amd64&distro=bookworm",
                          "pkg:deb/debian/libc6@2.36-9?arch=amd64&distro=bookworm"}  # fmt: skip
    assert found["pkg:pypi/torch@2.5.1"]["properties"]
    assert document["metadata"]["component"]["version"] == "sha256:abc"
    assert len(next(each for each in document["dependencies"] if each["ref"] == "loadcheck")["dependsOn"]) == 3


def test_the_same_image_gives_the_same_document():
    """The document has no time or serial number, so that two builds can be compared byte for byte."""
    assert sbom.sbom("sha256:abc", _components()) == sbom.sbom("sha256:abc", _components())


class Nameless(JsonV1Dot5):
    """Writes a component without a name."""

    def output_as_string(self, **keywords: Any) -> str:
        return json.dumps({**json.loads(super().output_as_string(**keywords)), "components": [{"type": "library"}]})


def test_a_document_that_breaks_the_schema_is_refused(monkeypatch: pytest.MonkeyPatch):
    """A document that breaks the schema is refused before anything is written."""
    monkeypatch.setattr(sbom, "JsonV1Dot5", Nameless)
    with pytest.raises(sbom.LayoutError, match=r"CycloneDX 1\.5"):
        sbom.sbom("sha256:abc", _components())
