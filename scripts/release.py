"""Check, build and tag a release of the light core (`make release`; `RELEASE=check` does all but the tag).

pyproject.toml, loadcheck/__init__.py and CHANGELOG.md's first entry must have the same version, its tag must not exist, and lint and tests must
pass. The commit is built, not the working tree: a source distribution, and from it the wheel. The wheel must work in an environment that
holds nothing else, outside a checkout. Exit code 1 names what is wrong, and nothing is tagged.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[1]
UV = ROOT / ".venv/tools/bin/uv"
T4_LOG = "tests/runs/t4_llama31-8b_reference.txt"
H100_RUN = "tests/runs/h100/reference-train3"
# What a user of the wheel does; each must exit with 0. The RAM is given, so that this machine's does not matter.
TRIALS = (
    ("--version",),
    ("list",),
    ("predict", "--gpu", "T4", "--ram-available-bytes", "12GiB"),
    ("fit", "--gpu", "T4", "--ram-available-bytes", "12GiB"),
    ("parse", "load.log"),
    ("check", "load.log"),
    ("report", "run"),
)
_VERSIONS = {
    "pyproject.toml": re.compile(r'^version = "([^"]+)"$', re.MULTILINE),
    "src/loadcheck/__init__.py": re.compile(r'^__version__ = "([^"]+)"$', re.MULTILINE),
    "CHANGELOG.md": re.compile(r"^## (\S+) \(.*\)$", re.MULTILINE),
}
_DATED = re.compile(r"^## \S+ \(\d{4}-\d\d-\d\d\)$", re.MULTILINE)


class NotReleasableError(Exception):
    """What keeps the commit from being released, as `FILE: what is wrong; how to fix it`, one per line."""


def main() -> int:
    mode = sys.argv[1] if len(sys.argv) > 1 else "tag"
    if mode not in ("tag", "check"):
        print(f"Error: RELEASE: {mode!r} is not one of tag, check; leave it out to tag", file=sys.stderr)
        return 2
    try:
        release(ROOT, tagging=mode == "tag")
    except NotReleasableError as error:
        print("\n".join(f"Error: {line}" for line in str(error).splitlines()), file=sys.stderr)
        return 1
    return 0


def release(root: Path, tagging: bool) -> None:
    """Every step in order; NotReleasableError at the first that fails."""
    found = [*problems(root), *(tagging_problems(root) if tagging else ())]
    if found:
        raise NotReleasableError("\n".join(found))
    version = versions(root)["pyproject.toml"]
    say(f"loadcheck {version}: one version everywhere, and no tag v{version} yet")
    run(["make", "lint", "test"], root, "lint or tests fail; fix what is above")
    wheel = build(root, root / "dist")
    try_wheel(root, wheel)
    if tagging:
        run(["git", "tag", "--annotate", f"v{version}", "--message", f"loadcheck {version}"], root, "git cannot tag")
        say(f"tagged v{version}; publish it with: git push origin v{version}")
    else:
        say("not tagged, as RELEASE=check says")


def versions(root: Path) -> dict[str, str]:
    """The version in each file; empty if it has none."""
    texts = {name: (root / name).read_text(encoding="utf-8") for name in _VERSIONS}
    found = {name: pattern.search(texts[name]) for name, pattern in _VERSIONS.items()}
    return {name: match[1] if match else "" for name, match in found.items()}


def problems(root: Path) -> Iterator[str]:
    """Problems that prevent a release, whether it is tagged now or not."""
    stated = versions(root)
    version = stated["pyproject.toml"]
    for name, each in stated.items():
        if each != version or not each:
            yield f"{name}: states version {each or 'none'}, and pyproject.toml {version or 'none'}; make them one"
    if output(["git", "tag", "--list", f"v{version}"], root):
        yield f"pyproject.toml: v{version} is tagged already; raise the version, here, in __init__.py and in CHANGELOG.md"


def tagging_problems(root: Path) -> Iterator[str]:
    """Problems that prevent tagging this commit."""
    if output(["git", "status", "--porcelain"], root):
        yield "git: the working tree has changes; commit or remove them, as what is tagged is the commit"
    first = next(iter(re.findall(r"^## .*$", (root / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)), "")
    if not _DATED.fullmatch(first):
        yield f"CHANGELOG.md: its first entry, {first!r}, has no date; write it as '## VERSION (YYYY-MM-DD)'"


def build(root: Path, out: Path) -> Path:
    """The wheel, made from the commit's source distribution; both are in `out`, which was empty before."""
    shutil.rmtree(out, ignore_errors=True)
    with TemporaryDirectory() as folder:
        run(["bash", "-c", 'git archive HEAD | tar --extract --directory "$0"', folder], root, "git cannot archive")
        command = [UV, "build", "--quiet", "--no-build-isolation", "--python", sys.executable, "--out-dir", out, folder]
        epoch = {"SOURCE_DATE_EPOCH": output(["git", "log", "-1", "--format=%ct"], root)}
        run([str(word) for word in command], root, "it does not build", os.environ | epoch)
    (source,), (wheel,) = out.glob("*.tar.gz"), out.glob("*.whl")
    say(
        f"built dist/{source.name} ({source.stat().st_size} bytes) and dist/{wheel.name} ({wheel.stat().st_size} bytes)"
    )
    return wheel


def try_wheel(root: Path, wheel: Path) -> None:
    """Install the wheel with its dependencies into a new environment, and use it outside a checkout."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        python = folder / "environment/bin/python"
        new = [str(UV), "venv", "--quiet", "--no-project", "--python", sys.executable, str(folder / "environment")]
        run(new, folder, "no environment can be made")
        install = [str(UV), "pip", "install", "--quiet", "--python", str(python), str(wheel)]
        run(install, folder, "the wheel cannot be installed; its dependencies are those of pyproject.toml")
        shutil.copy(root / T4_LOG, folder / "load.log")
        shutil.copytree(root / H100_RUN, folder / "run")
        clean = {"PATH": os.defpath, "HOME": name}
        for trial in TRIALS:
            run([str(python.with_name("loadcheck")), *trial], folder, "the installed wheel fails", clean, quiet=True)
    say(f"the wheel works on its own: {', '.join(trial[0] for trial in TRIALS)}")


def run(command: list[str], folder: Path, wrong: str, env: dict[str, str] | None = None, quiet: bool = False) -> None:
    """Run in `folder`; NotReleasableError if the exit code is not 0, with the output if it was not shown."""
    done = subprocess.run(command, cwd=folder, env=env, check=False, capture_output=quiet, text=True)
    if done.returncode:
        print((done.stdout or "") + (done.stderr or ""), file=sys.stderr)
        raise NotReleasableError(f"{' '.join(command)}: exit code {done.returncode}; {wrong}")


def output(command: list[str], folder: Path) -> str:
    """The output of a git command; NotReleasableError if it fails."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotReleasableError(f"{' '.join(command)}: {done.stderr.strip()}; run it in a checkout of git")
    return done.stdout.strip()


def say(text: str) -> None:
    print(f"release: {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
