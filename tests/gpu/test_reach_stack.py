"""Code of the packages that a load cannot reach, shown by their sources. env/vex.toml names these tests. They need the stack, but no GPU."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from loadcheck.specs.architecture import ARCHITECTURES
from tests.gpu.test_gpu_load import PYTHON, VENV

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not VENV.exists(), reason=".venv/gpu is not installed")]

LOADED_SOURCES = ("vllm/engine", "vllm/executor", "vllm/worker", "vllm/lora", "vllm/attention", "vllm/core", "vllm/model_executor/layers",
             "vllm/model_executor/model_loader", "vllm/model_executor/models/llama.py", "unsloth", "unsloth_zoo", "peft", "bitsandbytes",
             "transformers/models/llama", "transformers/modeling_utils.py", "transformers/tokenization_utils_fast.py", "safetensors")  # fmt: skip
FUNCTIONS = ("_call_end_callbacks_on_jit_fut", "nnq", "pad_packed_sequence", "unpack_sequence", "lstm_cell", "jit_module_from_flatbuffer",
             "caching_allocator_delete", "PairwiseDistance", "linalg.lu", "rot90", "cummin", "hardshrink", "to_sparse", "torch.export.load",
             "json_format", "ParseDict")  # fmt: skip


def sources(*below: str) -> Iterator[tuple[str, str]]:
    """Each Python file of the installed packages below these paths, and its text."""
    (site,) = VENV.parents[1].glob("lib/python3.*/site-packages")
    for each in below:
        path = site / each
        assert path.exists(), each
        for file in [path] if path.is_file() else sorted(path.rglob("*.py")):
            yield str(file.relative_to(site)), file.read_text(encoding="utf-8", errors="replace")


def files_matching(pattern: str, *below: str) -> set[str]:
    return {file for file, text in sources(*below) if re.search(pattern, text)}


def test_no_package_of_a_load_calls_these_functions():
    """vLLM's engine, unsloth, peft and bitsandbytes do not name them; vLLM uses nan_to_num only on scores, which stay floats."""
    pattern = "|".join(re.escape(name) if "." in name else rf"\b{name}\b" for name in FUNCTIONS)
    assert files_matching(pattern, *LOADED_SOURCES) == set()
    assert files_matching(r"nan_to_num(?!_\(nan=float)", *LOADED_SOURCES) == set()


def test_vllms_server_parses_no_form_and_serves_no_file():
    """None of its routes names a function for either."""
    assert (
        files_matching(
            r"StaticFiles|FileResponse|HTTPEndpoint|\.form\(\)|UploadFile|\bForm\(|\bFile\(", "vllm/entrypoints"
        )
        == set()
    )


def test_what_came_with_later_releases_is_absent():
    """Routes, layers and models with known vulnerabilities that these versions do not have yet."""
    assert files_matching(r"has_mamba_layers|/audio/transcriptions|/v1/messages", "vllm") == set()
    (site,) = VENV.parents[1].glob("lib/python3.*/site-packages")
    assert not any((site / "transformers" / "models" / name).exists() for name in ("glm4", "lightglue"))


def test_no_known_model_loads_an_activation_by_name():
    """Only cross-encoders do, and none of their families is known here."""
    found = files_matching("get_cross_encoder_activation_function", "vllm") - {"vllm/transformers_utils/config.py"}
    assert found == {f"vllm/model_executor/{name}.py" for name in ("layers/pooler", "models/bert", "models/roberta")}
    assert not {"bert", "roberta"} & set(ARCHITECTURES)


FETCHES = """
import sys, asyncio
from types import SimpleNamespace
from vllm.entrypoints import chat_utils
from vllm.multimodal.utils import MediaConnector
fetched = []
async def fetch(self, url, *more, **named): fetched.append(url)
MediaConnector.fetch_image = MediaConnector.fetch_image_async = MediaConnector.fetch_audio_async = fetch
for model_type in sys.argv[1:]:
    config = SimpleNamespace(hf_config=SimpleNamespace(model_type=model_type), allowed_local_media_path="", multimodal_config=None)
    for part in ({"type": "image_url", "image_url": {"url": "http://x/a.png"}}, {"type": "audio_url", "audio_url": {"url": "http://x/a.wav"}}):
        items = chat_utils.AsyncMultiModalItemTracker(config, None)
        try:
            chat_utils._parse_chat_message_content({"role": "user", "content": [part]}, items, "string")
        except (TypeError, ValueError):
            print("refused", end=" ")
print(fetched)
"""


def test_vllm_fetches_nothing_for_a_model_of_text(tmp_path: Path):
    """The server refuses a message with an image or audio URL because of the model's family, before it fetches anything."""
    command = [PYTHON, "-B", "-W", "ignore", "-c", FETCHES, *sorted(ARCHITECTURES)]
    completed = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "HOME": str(tmp_path)}, capture_output=True, text=True, check=True
    )
    assert completed.stdout.splitlines()[-1] == "refused " * 2 * len(ARCHITECTURES) + "[]"
