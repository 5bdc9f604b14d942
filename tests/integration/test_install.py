"""Environments match their locks, belong to this checkout, and are made without touching anything else."""

import fcntl
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Stand-ins record their arguments, and which of the variables they see.
UV = """#!/bin/bash
echo "uv $*" >>given
env | grep -E '^(UV|PIP|PYTHON|VIRTUAL_ENV|CONDA|__PYVENV)' | sort >seen
if [ "$1" = venv ]; then for last; do :; done; mkdir -p "$last/bin"; touch "$last/bin/python"; chmod +x "$last/bin/python"; fi
for last; do :; done
if [ "$last" = . ]; then mkdir -p .venv/dev/lib/python3.11/site-packages; pwd >.venv/dev/lib/python3.11/site-packages/__editable__.loadcheck-0.pth; fi
if [ "$1 $2" = "pip install" ] && [ -e says ]; then cat says >&2; exit 2; fi
"""
REDIRECTS = {
    "UV_SYSTEM_PYTHON": "1", "UV_PYTHON": "3.12", "UV_CONSTRAINT": "c", "UV_EXCLUDE_NEWER": "2020-01-01", "UV_TARGET": "/x",
    "UV_PROJECT_ENVIRONMENT": "p", "PIP_USER": "1", "PIP_TARGET": "/x", "PIP_PREFIX": "/x", "PIP_REQUIREMENT": "r",
    "VIRTUAL_ENV": "/v", "CONDA_PREFIX": "/c",
    "PYTHONPATH": "/p", "PYTHONUSERBASE": "/u", "PYTHONHOME": "/h",
}  # fmt: skip
OWN = {"UV_DEFAULT_INDEX": "https://index.example/simple", "UV_INDEX_COMPANY_PASSWORD": "p", "PIP_CERT": "/c.pem"}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The scripts and a lock, with uv's stand-in installed, in a folder with a space and an umlaut in its name."""
    folder = tmp_path / "a checkout ü"
    (folder / "env").mkdir(parents=True)
    (folder / "scripts").mkdir()
    for name in ("scripts/venv", "scripts/progress", "scripts/before-install", "scripts/cache", "env/sizes.toml"):
        shutil.copy(ROOT / name, folder / name)
    for name in ("env/tools.lock", "env/dev.lock", "pyproject.toml"):
        (folder / name).write_text(name)
    put_tools(folder)
    return folder


def put_tools(folder: Path) -> None:
    uv = folder / ".venv/tools/bin/uv"
    uv.parent.mkdir(parents=True, exist_ok=True)
    uv.write_text(UV)
    uv.chmod(0o755)
    uv.with_name("python").symlink_to(sys.executable)
    stamp = subprocess.run(
        "pwd -P; sha256sum env/tools.lock pyproject.toml", shell=True, cwd=folder, capture_output=True, check=False
    )
    (folder / ".venv/tools/.complete").write_bytes(stamp.stdout)


def install(folder: Path, *arguments: str, **environment: str) -> tuple[int, str]:
    """The exit code and output of scripts/venv."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("UV_", "PIP_", "PYTHON"))}
    done = subprocess.run([folder / "scripts/venv", *(arguments or ("dev", "env/dev.lock"))], cwd=folder,
                          env=clean | environment, capture_output=True, text=True, check=False)  # fmt: skip
    return done.returncode, done.stderr


def installs(folder: Path) -> int:
    """How many times a set of packages was installed."""
    given = folder / "given"
    return given.read_text().count("--require-hashes") if given.exists() else 0


def test_variables_that_redirect_are_unset(checkout: Path):
    """uv gets the environment's Python by path and sees the user's index and certificates, but no variable that redirects it."""
    assert install(checkout, **REDIRECTS, **OWN)[0] == 0
    assert "uv pip install --python .venv/dev/bin/python --compile-bytecode" in (checkout / "given").read_text()
    seen = dict(line.partition("=")[::2] for line in (checkout / "seen").read_text().splitlines())
    assert OWN.items() <= seen.items()
    assert not set(REDIRECTS) & set(seen)


def test_the_checkouts_path_is_in_no_pth_file(checkout: Path):
    """A .pth file is read in the locale's encoding, which may lack the umlaut, so its path is relative, and leads to src."""
    install(checkout)
    (link,) = checkout.glob(".venv/dev/lib/python3.*/site-packages/*.pth")
    assert (link.parent / link.read_text().strip()).resolve() == (checkout / "src").resolve()
    assert link.read_text().isascii() and not link.read_text().startswith("/")


def test_contents_decide_rather_than_times(checkout: Path):
    """New times change nothing; new content of a lock or of pyproject.toml does."""
    assert install(checkout) == install(checkout, "dev", "env/dev.lock") or installs(checkout) == 1
    os.utime(checkout / "env/dev.lock")
    install(checkout)
    assert installs(checkout) == 1
    for number, name in enumerate(("env/dev.lock", "pyproject.toml"), start=2):
        (checkout / name).write_text("changed")
        os.utime(checkout / name, (1, 1))
        if name == "pyproject.toml":
            shutil.rmtree(checkout / ".venv/tools")
            put_tools(checkout)
        assert (install(checkout)[0], installs(checkout)) == (0, number)


def test_the_newest_environment_has_no_lock(checkout: Path):
    """ "newest" installs the newest packages that its files allow; every other environment its lock's, with hashes."""
    (checkout / "env/newest.in").write_text("pytest")
    assert install(checkout, "newest", "pyproject.toml", "env/newest.in")[0] == 0
    (line,) = [line for line in (checkout / "given").read_text().splitlines() if "--compile-bytecode" in line]
    assert line.endswith("--upgrade --refresh --requirements pyproject.toml --requirements env/newest.in")


@pytest.mark.parametrize("how", [shutil.copytree, shutil.move])
def test_a_copied_or_moved_checkout_installs_again(how, checkout: Path, tmp_path: Path):
    """A copied or moved checkout installs again, as its environment would run the other checkout's code."""
    install(checkout)
    other = tmp_path / "other"
    how(checkout, other)
    shutil.rmtree(other / ".venv/tools")
    put_tools(other)
    assert (install(other)[0], installs(other)) == (0, 2)
    assert (install(other)[0], installs(other)) == (0, 2)


def test_an_incomplete_environment_is_made_again(checkout: Path):
    """An environment whose installation was killed has no stamp, and is made again."""
    install(checkout)
    (checkout / ".venv/dev/.complete").unlink()
    (checkout / ".venv/dev/half").touch()
    code, output = install(checkout)
    assert (code, installs(checkout)) == (0, 2), output
    assert not (checkout / ".venv/dev/half").exists()


def test_a_second_call_waits(checkout: Path):
    """A second call waits, says so, and installs after the first."""
    with (checkout / ".venv/.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        second = subprocess.Popen([checkout / "scripts/venv", "dev", "env/dev.lock"], stderr=subprocess.PIPE, text=True)
        assert second.stderr is not None
        assert second.stderr.readline() == "Waiting for another make that installs into this checkout\n"
        time.sleep(0.1)
        assert installs(checkout) == 0
        fcntl.flock(lock, fcntl.LOCK_UN)
        second.communicate(timeout=60)
    assert (second.returncode, installs(checkout)) == (0, 1)


def test_a_slow_step_shows_dots(checkout: Path, tmp_path: Path):
    """A slow step prints a dot every two seconds (a tenth here) on its own line; a fast one prints none."""
    uv, sleep, slept = checkout / ".venv/tools/bin/uv", tmp_path / "bin/sleep", tmp_path / "slept"
    sleep.parent.mkdir()
    sleep.write_text(f'''#!/bin/sh
echo "$1" >>"{slept}"
if [ "$1" = 2 ] && ! [ -e "{tmp_path}/slow" ]; then exec /bin/sleep 60; fi
exec /bin/sleep 0.1
''')
    sleep.chmod(0o755)
    path = f"{sleep.parent}:{os.environ['PATH']}"
    assert install(checkout, PATH=path)[1].startswith("Installing .venv/dev")
    (checkout / ".venv/dev/.complete").unlink()
    (tmp_path / "slow").touch()
    slept.unlink()
    until_second = f'for _ in {{1..600}}; do [ "$(head -2 "{slept}")" = $\'2\\n2\' ] && break; /bin/sleep 0.1; done'
    uv.write_text(UV.replace('if [ "$1" = venv ]; then', f'if [ "$1" = venv ]; then {until_second};'))
    code, output = install(checkout, PATH=path)
    assert code == 0 and set(output.splitlines()[0]) == {"."}
    assert slept.read_text().startswith("2\n2\n")


@pytest.mark.parametrize(
    ("says", "cause"),
    [
        ("error: failed to write: No space left on device (os error 28)", "the disk is full"),
        ("error: Failed to fetch: `https://x/`\n  Caused by: dns error", "the package index cannot be reached"),
        ("error: Hash mismatch for `click==8`", "a package is not the one of the lock"),
        ("error: something new", "the packages could not be installed"),
    ],
)
def test_a_failure_prints_its_cause_last(says: str, cause: str, checkout: Path):
    """uv's own words come first, the cause last, and nothing incomplete is left."""
    (checkout / "says").write_text(says + "\n")
    code, output = install(checkout)
    assert code == 3 and says in output
    assert output.splitlines()[-1].startswith(f"Error: .venv/dev: {cause}; ")
    assert not (checkout / ".venv/dev").exists()


def test_a_missing_python_is_named(checkout: Path):
    """A missing Python is named, with what to install."""
    shutil.rmtree(checkout / ".venv")
    code, output = install(checkout, PYTHON="python-of-nowhere")
    assert code == 3
    assert output.splitlines()[-1].startswith(
        "Error: python-of-nowhere: not found on this machine; install Python 3.10"
    )


def test_an_unwritable_checkout_is_named(checkout: Path):
    """A .venv that cannot be made is named, with the system's reason."""
    shutil.rmtree(checkout / ".venv")
    (checkout / ".venv").write_text("a file, which root cannot make a folder of either")
    code, output = install(checkout)
    assert code == 3
    assert output.splitlines()[-1] == (
        f"Error: {checkout.resolve()}/.venv: cannot be written (File exists); use a checkout on a disk that you may write to"
    )


def test_with_an_unwritable_home_the_cache_is_in_the_checkout(checkout: Path):
    """If the home cannot be written, uv's cache is in the checkout."""
    assert install(checkout, HOME="/dev/null", XDG_CACHE_HOME="/dev/null/cache")[0] == 0
    assert f"UV_CACHE_DIR={checkout.resolve()}/.venv/cache" in (checkout / "seen").read_text()


@pytest.mark.parametrize(("home", "own"), [("/dev/null", True), ("home", False)])
def test_with_an_unwritable_home_weights_are_in_the_checkout(home: str, own: bool, checkout: Path, tmp_path: Path):
    """Weights are kept in the checkout only if the home cannot be written, and in the user's folder if one is named."""
    script = 'source scripts/cache; echo "${LOADCHECK_CACHE:-none}"'
    environment = {"PATH": os.environ["PATH"], "HOME": home if own else str(tmp_path / home)}
    found = subprocess.check_output(["bash", "-c", script], cwd=checkout, env=environment, text=True).strip()
    assert found == (f"{checkout}/.venv/cache/loadcheck" if own else "none")
    named = subprocess.check_output(
        ["bash", "-c", script], cwd=checkout, env=environment | {"LOADCHECK_CACHE": "/n"}, text=True
    )
    assert named.strip() == "/n"


@pytest.mark.parametrize(
    ("code", "arguments", "exit_code"),
    [(0, "", 0), (1, "", 3), (1, "--recover", 0), (3, "--recover", 3), (3, "--force", 0), (2, "", 2)],
)
def test_doctor_runs_before_the_stack_is_fetched(code: int, arguments: str, exit_code: int, checkout: Path):
    """doctor runs before the stack is fetched. What this machine lacks stops it, what ARGS may change does not, and an invalid profile is bad input."""
    doctor = checkout / ".venv/dev/bin/loadcheck"
    doctor.parent.mkdir(parents=True)
    doctor.write_text(f"#!/bin/sh\necho what is wrong\nexit {code}\n")
    doctor.chmod(0o755)
    found, output = install(checkout, "cpu", "env/dev.lock", ARGS=arguments)
    assert (found, installs(checkout)) == (exit_code, int(exit_code == 0))
    assert ("what is wrong" in output) is (exit_code != 0 or arguments == "--force")
