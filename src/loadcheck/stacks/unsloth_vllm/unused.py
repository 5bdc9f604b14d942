"""What the stack imports and no load uses: it is put off until something does, which takes a third off the imports.

The names are those of the pinned versions. A load is meant that trains nothing: trainers use some of these.
"""

from __future__ import annotations

from typing import Any

from loadcheck.stacks import later

LIBRARIES = (
    "aiohttp",  # to fetch pictures from the web (vllm/connections.py:7)
    "cpuinfo",  # for usage statistics, which are off (vllm/usage/usage_lib.py)
    "datasets",  # to train with (trl, transformers/trainer.py, unsloth_zoo/tokenizer_utils.py)
    "diffusers",  # to train picture models (trl/models/modeling_sd_base.py:25-26)
    "gguf",  # to load GGUF files (vllm/model_executor/model_loader/loader.py:19)
    "huggingface_hub.inference",  # to ask the hub's servers (huggingface_hub/_inference_endpoints.py)
    "openai",  # types of chat messages (vllm/entrypoints/chat_utils.py), and a judge of trl's (trl/trainer/judges.py)
    "pandas",  # tables of trl's (trl/trainer/callbacks.py, utils.py)
    "pyarrow",
    "ray",  # several processes (vllm/executor/ray_utils.py)
    "torch.distributed._composable",  # to trace FSDP (torch/_dynamo/variables/functions.py:31, torch.py:61)
    "torch.utils.hipify.hipify_python",  # builds a trie of AMD's names (torch/_inductor/codegen/aoti_hipify_utils.py:5)
    "trl.extras.dataset_formatting",  # makes columns of datasets as it is imported (trl/trainer/sft_trainer.py:46)
    "xformers.ops.fmha._triton.splitk_kernels",  # writes kernels of one attention (xformers/ops/fmha/triton_splitk.py:110)
    "zmq",  # several processes (vllm/utils.py:48-49)
)
PARENTS = (
    "torchvision",  # names its data sets and models (torchvision/__init__.py)
    "transformers.models",  # names all 300 families of models (transformers/models/__init__.py)
)
"""They name packages, of which a load uses a few."""


def put_off() -> None:
    """Have these imported when they are used; before unsloth is imported."""
    later.put_off(LIBRARIES)
    for parent in PARENTS:
        later.put_off_packages(parent)


def leave_compiler(torch: Any) -> None:
    """Have `torch.compile` note its settings without importing the compiler, which is imported when it compiles; unsloth calls it 7 times.

    The settings are read where the compiler itself reads them (torch/__init__.py:2236-2239, torch/_inductor/compile_fx.py:442-444).
    """

    def get_compiler_config(backend: Any) -> Any:
        from torch._inductor import config

        with config.patch(backend.config):
            return config.get_config_copy()

    torch._TorchCompileInductorWrapper.get_compiler_config = get_compiler_config
