"""Writes YAML that people and engines read."""

from __future__ import annotations

from typing import Any


def yaml_text(*documents: dict[str, Any], comment: str = "") -> str:
    """YAML documents with keys in the given order, and multi-line text as blocks."""
    import yaml

    class Dumper(yaml.SafeDumper):
        """A local class, as representers are registered on the class."""

        def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
            return True

    def text(dumper: yaml.SafeDumper, data: str) -> yaml.ScalarNode:
        return dumper.represent_scalar("tag:yaml.org,2002:str", data, style="|" if "\n" in data else None)

    Dumper.add_representer(str, text)
    body = yaml.dump_all(documents, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=120)
    return (f"# {comment}\n" if comment else "") + body
