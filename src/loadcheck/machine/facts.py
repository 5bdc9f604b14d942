"""The facts of a machine as one record, which doctor/facts.py fills; the checks are functions of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from loadcheck.device import Driver, GpuDevice
from loadcheck.errors import Problem
from loadcheck.provenance import Provenance

TokenForm = Literal["empty", "malformed", "of a retired form", "expired", "well-formed"]
Symbols = tuple[int, ...]
"""A version such as GLIBCXX_3.4.22, as (3, 4, 22)."""


Difference = Literal["missing", "changed"]


@dataclass(frozen=True, slots=True)
class ChangedFile:
    """A file that differs from its wheel; `why` is None if env/image.toml does not explain it."""

    path: str
    difference: Difference
    why: str | None


@dataclass(frozen=True, slots=True)
class Token:
    """Where a token of the hub is set, and its form, but not the token itself."""

    source: str
    form: TokenForm


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The facts of one machine, and of the environment that loadcheck runs in.

    Attributes:
        gpu: the first visible GPU, as CUDA reports it.
        driver: None if there is none.
        is_wsl: whether this Linux runs in Windows (WSL2).
        cache_dir, disk_free_bytes: where weights are kept, and the free space on that disk.
        has_weights: whether the profile's weights are already in the cache.
        unsafe_weights: files in a local directory of weights that the engine would open and that are not pure data.
        environment_dir, environment_free_bytes: where make installs the stack, and the free space on that disk; None outside a checkout.
        shadowed: pinned packages of which PYTHONPATH has another copy.
        shm_bytes: the size of /dev/shm; None if there is none.
        libcuda_dirs: where Triton will look for the driver's library to link to.
        has_libcuda_link: whether the linker will find libcuda.so there.
        compiler: the C compiler that Triton will use.
        glibcxx_needed, glibcxx_found: the newest symbols that bitsandbytes' library needs, and that this system's libstdc++ has.
        installed: the versions of the installed packages, by their names in env/versions.toml.
        changed_files: files that differ from their wheels.
        has_edited_xformers: whether unsloth's edit of xformers is in place; None if xformers is not installed.
        variables: the environment variables that change a load, as they are set.
        tokens: the hub's tokens that are set, the effective one first.
        provenance: the statement that LOADCHECK_PROVENANCE names, with its faults; an error message if it cannot be read.
    """

    gpu: GpuDevice | None = None
    driver: Driver | None = None
    in_container: bool = False
    is_wsl: bool = False
    platform: str = "x86_64"
    python: tuple[int, int] = (3, 11)
    ram_total_bytes: int = 0
    ram_available_bytes: int = 0
    cache_dir: str = ""
    disk_free_bytes: int = 0
    has_weights: bool = False
    unsafe_weights: tuple[Problem, ...] = ()
    environment_dir: str = ""
    environment_free_bytes: int | None = None
    shadowed: tuple[str, ...] = ()
    shm_bytes: int | None = None
    libcuda_dirs: tuple[str, ...] = ()
    has_libcuda_link: bool = False
    compiler: str | None = None
    has_python_header: bool = False
    glibcxx_needed: Symbols | None = None
    glibcxx_found: Symbols | None = None
    installed: Mapping[str, str] = field(default_factory=dict)
    changed_files: tuple[ChangedFile, ...] = ()
    has_edited_xformers: bool | None = None
    variables: Mapping[str, str] = field(default_factory=dict)
    tokens: tuple[Token, ...] = ()
    provenance: Provenance | str | None = None
