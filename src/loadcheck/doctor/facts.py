"""Reads the facts of this machine: files, variables, installed packages. It uses no network, and no library that takes seconds to import."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, PackagePath, distributions, version
from pathlib import Path

import psutil

from loadcheck.device import GpuDevice, is_wsl, read_driver
from loadcheck.doctor.host import SHM
from loadcheck.doctor.settings import VARIABLES, token_form
from loadcheck.machine import ChangedFile, Machine, Symbols, Token
from loadcheck.manifest import OURS, explanation, is_compared, record_hash
from loadcheck.plan import LoadPlan
from loadcheck.provenance import of_this_process
from loadcheck.runs.secrets import hub_tokens
from loadcheck.specs.files import env_dir, read_toml
from loadcheck.specs.versions import load_versions
from loadcheck.stacks import STACKS
from loadcheck.weights import in_cache, unsafe_local
from loadcheck.weights.cache import weights_dir
from loadcheck.weights.lock import hash_file

NOT_PACKAGES = ("python", "cuda")
XFORMERS_FILE = "xformers/ops/fmha/cutlass.py"
ENVIRONMENTS = Path(sys.prefix).parent
"""The folder of this environment and its siblings: .venv of a checkout."""
MODULES = {"protobuf": "google/protobuf"}
"""Packages that are imported under a name other than their own."""
HASHED_BYTES = 1 << 20
"""Files up to this size are hashed, larger ones are compared only by size: 3 s for the whole stack (30,313 files) instead of 30.
`loadcheck manifest --files` hashes them all."""


def read_machine(plan: LoadPlan, gpu: GpuDevice | None, files: bool = True) -> Machine:
    """Everything that the checks need; takes some seconds, most of them for the installed files (which `files=False` skips)."""
    memory = psutil.virtual_memory()
    dirs, compiler = _libcuda_dirs(), _compiler()
    needed, found = _glibcxx(plan.profile.on_cpu)
    return Machine(
        gpu=gpu,
        driver=read_driver(),
        in_container=_in_container(),
        is_wsl=is_wsl(platform.release()),
        platform=platform.machine(),
        python=sys.version_info[:2],
        ram_total_bytes=memory.total,
        ram_available_bytes=memory.available,
        cache_dir=str(weights_dir()),
        disk_free_bytes=_disk_free_bytes(weights_dir()),
        has_weights=in_cache(plan),
        unsafe_weights=unsafe_local(plan),
        environment_dir=str(ENVIRONMENTS),
        environment_free_bytes=_disk_free_bytes(ENVIRONMENTS) if ENVIRONMENTS.exists() else None,
        shadowed=_shadowed(os.environ.get("PYTHONPATH", "")),
        shm_bytes=_shm_bytes(),
        libcuda_dirs=dirs,
        has_libcuda_link=_has_libcuda_link(dirs, compiler),
        compiler=compiler,
        has_python_header=Path(sysconfig.get_paths()["include"], "Python.h").exists(),
        glibcxx_needed=needed,
        glibcxx_found=found,
        installed=_installed(),
        changed_files=_changed_files() if files else (),
        has_edited_xformers=_has_edited_xformers(),
        variables={name: os.environ[name] for name in _variables() if name in os.environ},
        tokens=tuple(_tokens()),
        provenance=of_this_process(os.environ),
    )


# ------------------------------------------------------------------------------------------------------------------- system


def _variables() -> tuple[str, ...]:
    """The environment variables that change a load of any stack."""
    return (*VARIABLES, *(name for stack in STACKS for name in stack.variables))


def _in_container() -> bool:
    return (
        Path("/.dockerenv").exists() or Path("/run/.containerenv").exists() or "KUBERNETES_SERVICE_HOST" in os.environ
    )


def _disk_free_bytes(folder: Path) -> int:
    """The free space on the disk that a folder is on, or will be on."""
    return shutil.disk_usage(next(ancestor for ancestor in (folder, *folder.parents) if ancestor.exists())).free


def _shm_bytes() -> int | None:
    try:
        return shutil.disk_usage(SHM).total
    except OSError:
        return None


def _libcuda_dirs() -> tuple[str, ...]:
    """Where Triton looks for libcuda.so.1 (triton/backends/nvidia/driver.py:19-40 at 3.1.0)."""
    if own := os.environ.get("TRITON_LIBCUDA_PATH"):
        return (own,)
    try:
        listed = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True, check=False).stdout
    except OSError:
        listed = ""
    paths = [Path(line.split()[-1]) for line in listed.splitlines() if "libcuda.so.1" in line]
    searched = [
        Path(directory, "libcuda.so.1") for directory in os.environ.get("LD_LIBRARY_PATH", "").split(":") if directory
    ]
    return tuple(dict.fromkeys(str(path.parent) for path in paths or searched if path.exists()))


def _has_libcuda_link(dirs: tuple[str, ...], compiler: str | None) -> bool:
    """Whether the linker finds -lcuda: in Triton's directories, in LIBRARY_PATH, or in the compiler's default path."""
    if any(Path(directory, "libcuda.so").exists() for directory in (*dirs, "/usr/local/lib")):
        return True
    try:
        command = [compiler or "gcc", "-print-file-name=libcuda.so"]
        found = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return False
    return Path(found).is_absolute()  # the compiler prints the bare name if there is none


def _compiler() -> str | None:
    """The C compiler that Triton uses (triton/runtime/build.py:24-32 at 3.1.0)."""
    return os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")


# ---------------------------------------------------------------------------------------------------------------- libstdc++


def _glibcxx(on_cpu: bool) -> tuple[Symbols | None, Symbols | None]:
    """The newest GLIBCXX symbol that bitsandbytes' library needs, and the newest that libstdc++ has."""
    spec = importlib.util.find_spec("bitsandbytes")
    library = "libbitsandbytes_cpu.so" if on_cpu else "libbitsandbytes_cuda124.so"
    needed = Path(spec.origin).parent / library if spec and spec.origin else None
    return _newest_symbol(needed), _newest_symbol(_libstdcxx())


def _libstdcxx() -> Path | None:
    """The libstdc++ that the dynamic loader finds for this process."""
    try:
        ctypes.CDLL("libstdc++.so.6")
        mapped = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    match = re.search(r"(/\S*/libstdc\+\+\.so\.6\S*)", mapped)
    return Path(match.group(1)) if match else None


def _newest_symbol(library: Path | None) -> Symbols | None:
    try:
        data = library.read_bytes() if library else b""
    except OSError:
        return None
    found = {tuple(map(int, version.split(b"."))) for version in re.findall(rb"GLIBCXX_(\d+(?:\.\d+)+)\0", data)}
    return max(found, default=None)


# ---------------------------------------------------------------------------------------------------------------- installed


def _installed() -> dict[str, str]:
    """The version of each pinned package that is installed."""
    found = {}
    for name in load_versions().pins:
        if name not in NOT_PACKAGES:
            try:
                found[name] = version(name)
            except PackageNotFoundError:
                continue
    return found


def _shadowed(python_path: str) -> tuple[str, ...]:
    """Packages and modules in the folders of PYTHONPATH that are imported instead of a pinned one; an empty entry is this folder."""
    folders = [Path(entry or ".") for entry in python_path.split(os.pathsep)] if python_path else []
    names = [MODULES.get(name, name.replace("-", "_")) for name in load_versions().pins if name not in NOT_PACKAGES]
    found = [folder / name for folder in folders for name in names]
    return tuple(str(path) for path in found if path.is_dir() or path.with_name(path.name + ".py").is_file())


def _changed_files() -> tuple[ChangedFile, ...]:
    """Files that are missing, of another size than RECORD says, or (small ones) of another hash."""
    files = [
        path
        for distribution in distributions()
        if distribution.name != OURS
        for path in distribution.files or ()
        if is_compared(path)
    ]
    return tuple(found for found in map(_compare, files) if found)  # threads made it slower: 7 s instead of 3


def _compare(path: PackagePath) -> ChangedFile | None:
    file = Path(str(path.locate()))
    try:
        size = file.stat().st_size
        same = path.size in (None, size) and (
            size > HASHED_BYTES or record_hash(file) == (path.hash and path.hash.value)
        )
    except OSError:
        return ChangedFile(str(path), "missing", explanation(str(path)))
    return None if same else ChangedFile(str(path), "changed", _why(path))


def _why(path: PackagePath) -> str | None:
    """Why a file differs; xformers' file may differ only by unsloth's exact edit."""
    if str(path) == XFORMERS_FILE:
        return "unsloth's own edit" if _has_edited_xformers() else None
    return explanation(str(path))


def _has_edited_xformers() -> bool | None:
    """Whether xformers' file is as unsloth edits it (unsloth/__init__.py:98-117); None without xformers."""
    spec = importlib.util.find_spec("xformers")
    if spec is None or spec.origin is None:
        return None
    file = Path(spec.origin).parents[1] / XFORMERS_FILE
    after = next(
        patch["sha256_after"]
        for patch in read_toml(env_dir() / "image.toml")["patch"]
        if patch["path"] == XFORMERS_FILE
    )
    return file.exists() and hash_file(file.parent, file).sha256 == after


# -------------------------------------------------------------------------------------------------------------------- token


def _tokens() -> Iterator[Token]:
    now_s = time.time()
    for source, token in hub_tokens(os.environ):
        yield Token(source, token_form(token, now_s))
