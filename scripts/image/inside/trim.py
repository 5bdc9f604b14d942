"""Patch, strip and prune the image's site-packages as env/image.toml says: trim.py IMAGE_TOML SITE_PACKAGES.

Each entry is first checked against the file's contents, and all problems are reported at once, so that a new lock cannot leave an entry that
no longer matches. With --measure as the third argument nothing is changed, and the bytes that each entry would remove are printed. With --patch
only the edits are made, once, in an environment outside an image (scripts/venv).
"""

from __future__ import annotations

import py_compile
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def main() -> int:
    facts, site = tomllib.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    if "--measure" in sys.argv:
        for entry in facts["prune"]:
            print(size_bytes(matches(site, entry)), entry["paths"][0])
        return 0
    problems = [problem for entry in facts["patch"] for problem in patch(site, entry)]
    if "--patch" in sys.argv:
        return report(problems)
    problems += [problem for entry in facts["strip"] for problem in strip(site, entry)]
    problems += [problem for entry in facts["prune"] for problem in prune(site, entry)]
    return report(problems)


def report(problems: list[str]) -> int:
    """Print all problems on stderr; returns the exit code."""
    for problem in problems:
        print(f"Error: env/image.toml: {problem}; bring the entry up to date with the lock", file=sys.stderr)
    return 2 if problems else 0


def patch(site: Path, entry: dict[str, Any]) -> list[str]:
    """Replace a text in one file, whose hash is known before and after. A file that has the text already is a copy of the result.

    Never in place: the installer may share the file with its cache, and so with every other environment.
    """
    path = site / entry["path"]
    before = path.read_bytes()
    if sha256(before).hexdigest() == entry["sha256_after"]:
        before = before.replace(entry["new"].encode(), entry["old"].encode())
    after = before.replace(entry["old"].encode(), entry["new"].encode())
    for data, key in ((before, "sha256_before"), (after, "sha256_after")):
        if sha256(data).hexdigest() != entry[key]:
            return [f"patch.{entry['path']}: {key} is {sha256(data).hexdigest()}, not {entry[key]}"]
    mode = path.stat().st_mode
    path.unlink()
    path.write_bytes(after)
    path.chmod(mode)
    if "--patch" in sys.argv:
        py_compile.compile(str(path), doraise=True)
    return []


def strip(site: Path, entry: dict[str, Any]) -> list[str]:
    """Remove the debug sections of one library."""
    path = site / entry["path"]
    before_bytes = path.stat().st_size
    subprocess.run(["strip", "--strip-debug", path], check=True)
    saved_bytes = before_bytes - path.stat().st_size
    if saved_bytes != entry["saved_bytes"]:
        return [f"strip.{entry['path']}: saves {saved_bytes} bytes, not {entry['saved_bytes']}"]
    return []


def prune(site: Path, entry: dict[str, Any]) -> list[str]:
    """Remove the files and folders of one entry."""
    paths = matches(site, entry)
    removed_bytes = size_bytes(paths)
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    if removed_bytes != entry["bytes"]:
        return [f"prune.{entry['paths'][0]}: removes {removed_bytes} bytes, not {entry['bytes']}"]
    return []


def matches(site: Path, entry: dict[str, Any]) -> list[Path]:
    return sorted({path for pattern in entry["paths"] for path in site.glob(pattern)})


def size_bytes(paths: list[Path]) -> int:
    """Sum of the files below `paths`, except for bytecode, which does not exist yet during a build."""
    files = [file for path in paths for file in ([path] if path.is_file() else path.rglob("*"))]
    return sum(file.stat().st_size for file in files if file.is_file() and file.suffix != ".pyc")


if __name__ == "__main__":
    raise SystemExit(main())
