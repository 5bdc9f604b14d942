"""Write env/stacks/unsloth_vllm/names.toml: the checkpoints that the pinned unsloth loads for names.

    .venv/gpu/bin/python scripts/names.py

The table is parsed from the installed package's models/mapper.py, as importing unsloth needs a GPU.
"""

from __future__ import annotations

import runpy
from importlib.metadata import distribution
from pathlib import Path

FILE = Path(__file__).resolve().parents[1] / "env" / "stacks" / "unsloth_vllm" / "names.toml"
TABLES = {
    "in_4bit": ("FLOAT_TO_INT_MAPPER", "with load_in_4bit"),
    "from_4bit": ("INT_TO_FLOAT_MAPPER", "a 4-bit name without load_in_4bit"),
    "in_16bit": ("MAP_TO_UNSLOTH_16bit", "any other name without load_in_4bit"),
}


def main() -> None:
    """Every lower-case name, below the checkpoint that is loaded for it."""
    package = distribution("unsloth")
    mapper = runpy.run_path(str(package.locate_file("unsloth/models/mapper.py")))
    lines = [
        f"# Made by scripts/names.py from unsloth {package.version} models/mapper.py: the checkpoint, and the names that it is loaded for,",
        "# in lower case. A name that is in no table is loaded as it is (models/loader_utils.py:23-120).",
    ]
    for table, (variable, when) in TABLES.items():
        lines += ["", f"[{table}]  # {when}"]
        loaded: dict[str, list[str]] = {}
        for name, checkpoint in mapper[variable].items():
            if name == name.lower() and name != checkpoint:
                loaded.setdefault(checkpoint, []).append(name)
        for checkpoint, names in sorted(loaded.items()):
            quoted = ", ".join(f'"{name}"' for name in sorted(names))
            lines.append(f'"{checkpoint}" = [{quoted}]')
    FILE.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
