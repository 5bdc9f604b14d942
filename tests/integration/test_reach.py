"""Known vulnerabilities of the packages that our code cannot reach; env/vex.toml names these tests as proof."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from loadcheck.specs.architecture import ARCHITECTURES
from loadcheck.specs.files import read_toml
from loadcheck.stacks.serving import SERVER
from tests.conftest import ROOT

SOURCES = sorted((ROOT / "src" / "loadcheck").rglob("*.py"))
SERVERS = (
    "aiohttp",
    "fastapi",
    "http.server",
    "ray",
    "socketserver",
    "starlette",
    "uvicorn",
    "vllm.entrypoints.openai",
)


@cache
def _tree(path: Path) -> ast.Module:
    return _read(path)


def _read(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def text() -> str:
    """All our code, without comments, docstrings, and the list of modules that a load does not import (unused.py)."""
    return "\n".join(ast.unparse(_undocumented(_read(path))) for path in SOURCES if path.name != "unused.py")


def _undocumented(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            node.body = [each for each in node.body if not _is_text(each)] or [ast.Pass()]
    return tree


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def imported() -> Iterator[tuple[str, str]]:
    """Each module that our files import, also inside functions."""
    for path in SOURCES:
        for node in ast.walk(_tree(path)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            yield from ((path.name, name) for name in names)


def test_no_server_is_started_by_a_load():
    """Only the server's process imports a server, and no other file imports that process."""
    found = {path for path, name in imported() if any(f"{name}.".startswith(f"{each}.") for each in SERVERS)}
    assert found == {"server.py"}
    assert [path for path, name in imported() if name == SERVER] == []


def test_no_code_of_a_repository_is_trusted():
    """trust_remote_code is set nowhere: neither as an argument nor as a key; a pattern of a log's line may name it."""
    nodes = [node for path in SOURCES for node in ast.walk(_tree(path))]
    assert not [node for node in nodes if isinstance(node, ast.keyword) and node.arg == "trust_remote_code"]
    keys = [key for node in nodes if isinstance(node, ast.Dict) for key in node.keys]
    assert not [key for key in keys if isinstance(key, ast.Constant) and key.value == "trust_remote_code"]


def test_our_code_opens_no_pickle():
    """Our code opens no pickle, by torch or by a library that reads pickles."""
    assert not re.search(r"torch\.load\(|weights_only", text())
    assert [name for _, name in imported() if name in ("pickle", "joblib", "dill", "cloudpickle", "shelve")] == []


@pytest.mark.parametrize(
    "name",
    [
        "ctc_loss",
        "max_pool",
        "kv_transfer",
        "mooncake",
        "PyNcclPipe",
        "easy_install",
        "sdist",
        "click.edit",
        "DiffusionPipeline",
        "PIL.",
        "ParseDict",
        "pre_buffer",
        "pyasn1",
        "AdlLexer",
        "dotenv",
        "torch.profiler",
        "torch.quantization",
        "pad_packed_sequence",
        "unpack_sequence",
        "lstm",
        "flatbuffer",
        "caching_allocator_delete",
        "PairwiseDistance",
        "torch.linalg",
        "rot90",
        "nan_to_num",
        "cummin",
        "hardshrink",
        "to_sparse",
        "torch.export",
        "torch.jit",
        "pt2",
    ],
)
def test_vulnerable_functions_are_not_used(name: str):
    """Neither called nor set: images, speech, several hosts, downloads by setuptools, vulnerable functions of torch."""
    assert name.lower() not in text().lower()


def test_an_engine_is_one_process_on_one_gpu():
    """No call requests more than one process, under any name; a log that does is read."""
    asked = {node.arg for path in SOURCES for node in ast.walk(_tree(path)) if isinstance(node, ast.keyword)}
    assert not asked & {
        "tensor_parallel_size",
        "pipeline_parallel_size",
        "distributed_executor_backend",
        "data_parallel_size",
    }


def test_only_a_fleet_uses_ray():
    """Only the fleet's own script uses the user's Ray cluster; no load does."""
    assert {path.parent.name for path in SOURCES if "ray.init(" in path.read_text(encoding="utf-8")} <= {"engines"}
    assert "ray.init(" not in "".join(
        path.read_text(encoding="utf-8") for path in (ROOT / "src/loadcheck/stacks").rglob("*.py")
    )


def test_every_architecture_is_a_text_decoder():
    """Every architecture is a text decoder."""
    assert {name for name in ARCHITECTURES if re.search(r"vl|vision|mllama|llava|image", name)} == set()


def test_every_model_is_a_known_text_decoder():
    """Every model is a known text decoder; a new one must be reviewed before it is added here."""
    assert set(ARCHITECTURES) == {"gemma", "granite", "llama", "mistral", "qwen2"}


def test_only_the_cpu_converter_reads_gguf():
    """Only the converter of the package's weights uses the package gguf, beside the list of what no load imports."""
    used = re.compile(r"\b(?:import|from) gguf\b|['\"]gguf['\"]")
    found = {path.name for path in SOURCES if used.search(ast.unparse(_undocumented(_read(path))))}
    assert found == {"package.py", "unused.py"}


def test_the_image_is_installed_by_hash():
    """The image is installed from the lock by hash, with no index but the user's."""
    script = (ROOT / "scripts/image/inside/install-stack").read_text(encoding="utf-8")
    assert script.count("install --quiet") == script.count("--require-hashes") == 2
    assert not re.search(r"extra.index|find.links|index-url|flashinfer", script)


def test_the_image_has_no_ray_servers():
    """The image lacks Ray's dashboard, which accepts jobs, and what would run them."""
    left_out = {path for entry in read_toml(ROOT / "env" / "image.toml")["prune"] for path in entry["paths"]}
    assert {"ray/dashboard", "ray/core/src/ray/raylet/raylet", "ray/core/src/ray/gcs/gcs_server"} <= left_out
