"""NF4 with double quantization by transformers and bitsandbytes, on a CPU, too."""

from __future__ import annotations

import logging
import os
import warnings
from pathlib import Path
from typing import Any

COMPUTE_DTYPE = "float32"
"""The compute type of a quantized linear. CPUs without 16-bit instructions are slow in float16, and in bfloat16 SmolLM2 answers wrongly
(measured with the weights unquantized: "L'Étoile, la Marseillaise, …" where float16 and float32 answer Paris)."""


def wait_passively() -> None:
    """Make torch's threads sleep while they wait, unless the user has set this. Call it before torch is imported.

    Spinning threads take CPU time from those that they wait for as soon as anything else runs: with one other busy process on 2 cores,
    a token took 9 s rather than 2.7 s; on an idle machine there was no difference (measured).
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def quieten() -> None:
    """Silence needless warnings of transformers and bitsandbytes; their errors are still shown."""
    # "compiled without GPU support" (bitsandbytes/cextension.py:282)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    # "Input type into Linear4bit is torch.float16, but bnb_4bit_compute_dtype=torch.float32": this is intended.
    warnings.filterwarnings("ignore", message="Input type into Linear4bit")
    from transformers.utils import logging as transformers_logging

    # "Unused kwargs: ['_load_in_4bit', …]", about keys that transformers itself has written
    transformers_logging.set_verbosity_error()


def allow_cpu() -> None:
    """Let transformers load 4-bit models on a machine with only a CPU.

    transformers 4.48.2 drops the CPU from the devices unless Intel's extension of torch is installed
    (integrations/bitsandbytes.py:491-499), and raises. bitsandbytes 0.46.1 has kernels of its own for every CPU
    (backends/cpu/ops.py). The quantizer takes the check from this module at each load (quantizers/quantizer_bnb_4bit.py:79-83).
    """
    import transformers.integrations

    def is_available(raise_exception: bool = False) -> bool:  # noqa: ARG001
        return True

    transformers.integrations.validate_bnb_backend_availability = is_available


def nf4_arguments(directory: Path) -> dict[str, Any]:
    """What `from_pretrained` needs to load a checkpoint in 4 bits: a quantized one says so itself, a 16-bit one is quantized while it is read."""
    from transformers import AutoConfig

    allow_cpu()
    quantized = getattr(AutoConfig.from_pretrained(directory), "quantization_config", None) is not None
    return {} if quantized else {"quantization_config": nf4_config()}


def nf4_config() -> Any:
    """The quantization of the -bnb-4bit checkpoints, as a transformers BitsAndBytesConfig."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=COMPUTE_DTYPE,
    )
