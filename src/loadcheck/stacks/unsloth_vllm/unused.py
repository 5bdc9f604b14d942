"""What the stack imports but no load uses. Deferring it cuts the import time by a third.

The names are those of the pinned versions. This holds for loads without training: trainers use some of these.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from loadcheck.stacks import lazy_imports

LIBRARIES = (
    "accelerate.commands",  # accelerate's command line (accelerate/utils/other.py:29)
    "aiohttp",  # fetches pictures from the web (vllm/connections.py:7)
    "cpuinfo",  # for usage statistics, which are off (vllm/usage/usage_lib.py)
    "datasets",  # for training (trl, transformers/trainer.py, unsloth_zoo/tokenizer_utils.py)
    "diffusers",  # for training image models (trl/models/modeling_sd_base.py:25-26)
    "gguf",  # loads GGUF files (vllm/model_executor/model_loader/loader.py:19)
    "huggingface_hub.inference",  # calls the hub's inference servers (huggingface_hub/_inference_endpoints.py)
    "openai",  # types of chat messages (vllm/entrypoints/chat_utils.py), and trl's judges (trl/trainer/judges.py)
    "pandas",  # tables in trl (trl/trainer/callbacks.py, utils.py)
    "pyarrow",
    "ray",  # multi-process execution (vllm/executor/ray_utils.py)
    "rich",  # tables in trl (trl/trainer/utils.py:33, callbacks.py:23)
    "sympy.geometry",  # sympy imports all it has (sympy/__init__.py); torch's compiler uses little of it (torch/utils/_sympy)
    "sympy.integrals",
    "sympy.plotting",
    "sympy.solvers",
    "torch.ao.quantization",  # torch's own quantization (torch/quantization/__init__.py:8)
    "torch.distributed._composable",  # traces FSDP (torch/_dynamo/variables/functions.py:31, torch.py:61)
    "torch.export",  # exports models (torch/_dynamo/eval_frame.py:58)
    "torch.quantization",  # torch/__init__.py:2129
    "torch.utils.hipify.hipify_python",  # builds a trie of AMD's names (torch/_inductor/codegen/aoti_hipify_utils.py:5)
    "trl.extras.dataset_formatting",  # builds dataset features on import (trl/trainer/sft_trainer.py:46)
    "xformers.ops.fmha._triton.splitk_kernels",  # generates kernels of one attention (xformers/ops/fmha/triton_splitk.py:110)
    "zmq",  # inter-process communication (vllm/utils.py:48-49)
)
PARENTS = (
    "torchvision",  # imports its datasets and models (torchvision/__init__.py)
    "transformers.models",  # imports all 300 model families (transformers/models/__init__.py)
)
"""They import many subpackages, of which a load uses a few."""


def defer() -> None:
    """Import these on first use; call before unsloth is imported."""
    lazy_imports.defer(LIBRARIES)
    for parent in PARENTS:
        lazy_imports.defer_packages(parent)


def defer_compiler(torch: Any) -> None:
    """Have `torch.compile` store its settings without importing the compiler, which is imported when it compiles; unsloth calls it 7 times.

    The compiler reads the same settings itself (torch/__init__.py:2236-2239, torch/_inductor/compile_fx.py:442-444). All of
    torch is imported before it compiles, as some modules register operators on import (torch/_inductor/decomposition.py:12, lowering.py:17).
    Otherwise it would fail, and dynamo, whose errors unsloth suppresses (unsloth_zoo/patching_utils.py:151), would run the function uncompiled.
    """
    wrapper = torch._TorchCompileInductorWrapper
    compile_graph = wrapper.__call__

    def get_compiler_config(backend: Any) -> Any:
        from torch._inductor import config

        with config.patch(backend.config):
            return config.get_config_copy()

    def compile_with_all_of_torch(backend: Any, *arguments: Any) -> Any:
        lazy_imports.import_now(name for name in LIBRARIES if name.startswith(("sympy.", "torch.")))
        return compile_graph(backend, *arguments)

    wrapper.get_compiler_config, wrapper.__call__ = get_compiler_config, compile_with_all_of_torch


class ConfigKeys(Sequence[Any]):
    """The config classes of an auto class's mapping, as its own `keys()` lists them; the list is made only if one class does not answer."""

    def __init__(self, mapping: Any, keys: Callable[[Any], list[Any]]) -> None:
        self._mapping, self._keys = mapping, keys

    def __contains__(self, item: object) -> bool:
        mapping = self._mapping
        model_type = mapping._reverse_config_mapping.get(getattr(item, "__name__", None))
        if model_type in mapping._model_mapping:
            found = mapping._load_attr_from_module(model_type, mapping._config_mapping[model_type])
            if found is item:
                return True
        return item in self._keys(mapping)

    def __getitem__(self, index: Any) -> Any:
        return self._keys(self._mapping)[index]

    def __len__(self) -> int:
        return len(self._keys(self._mapping))

    def __add__(self, other: list[Any]) -> list[Any]:
        return self._keys(self._mapping) + other


def defer_configs(auto_factory: Any) -> None:
    """Find out whether an auto class knows a config without importing the configs of all 300 families.

    `from_config`, by which unsloth makes the Hugging Face model, looks for the config's class in a list of all of them
    (transformers/models/auto/auto_factory.py:422, 779-786): that imports 91 modules that `defer` had left out.
    """
    mapping = auto_factory._LazyAutoMapping
    keys = mapping.keys
    mapping.keys = lambda self: ConfigKeys(self, keys)
