"""A trained model opened with plain transformers and peft on this machine: compared with the original, merged, or asked a question."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from loadcheck.disk import sha256_of
from loadcheck.plan import LoadPlan
from loadcheck.stacks.engine_common import seconds_since
from loadcheck.stacks.probe import PROBE, chat_ids, distance, logits_of, read_probe
from loadcheck.weights.nf4 import nf4_arguments, quieten, wait_passively

PACKAGES = ("torch", "transformers", "peft", "bitsandbytes")
ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}  # all files are local by now


@dataclass(frozen=True, slots=True)
class Source:
    """What to open: adapters and their base, or a merged model.

    Attributes:
        base: the directory of the base's weights; None for a merged model.
        dtype: of the unquantized weights, such as "float16".
    """

    plan: LoadPlan
    directory: Path
    base: Path | None
    dtype: str

    def tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self.directory)

    def model(self) -> Any:
        """In evaluation mode, with the adapters attached where there are any."""
        if self.base is None:
            return self._pretrained(self.directory, None).eval()
        from peft import PeftModel

        return PeftModel.from_pretrained(self.base_model(), str(self.directory)).eval()

    def base_model(self) -> Any:
        assert self.base is not None
        return self._pretrained(self.base, self.plan.quantization)

    def _pretrained(self, directory: Path, quantization: str | None) -> Any:
        """On the kind of device that it was trained on, if this machine has one."""
        import torch
        from transformers import AutoModelForCausalLM

        on_gpu = torch.cuda.is_available() and not self.plan.profile.on_cpu
        arguments: dict[str, Any] = {
            "torch_dtype": getattr(torch, self.dtype),
            "device_map": {"": 0 if on_gpu else "cpu"},
        }
        if quantization == "nf4":
            arguments |= nf4_arguments(directory)
        return AutoModelForCausalLM.from_pretrained(directory, **arguments)


def prepare_process() -> None:
    """Call before torch is imported."""
    os.environ.update(ENVIRONMENT)
    wait_passively()
    quieten()


def compare(source: Source) -> dict[str, Any]:
    """Compare the reloaded model with the probe beside it: distances of logits, the template's tokens, versions.

    `base_distance` is from the trained model to its base: the base as loaded now for adapters, the one in the probe for a merged model.
    """
    import torch

    tensors, metadata = read_probe(source.directory / PROBE)
    model = source.model()
    with torch.no_grad():
        reloaded = logits_of(model, metadata["ids"])
        base = tensors["base"]
        if source.base is not None:
            with model.disable_adapter():
                base = logits_of(model, metadata["ids"])
    tokenizer = source.tokenizer()
    return {
        "distance": distance(reloaded, tensors["trained"]),
        "base_distance": distance(base, tensors["trained"]),
        "same_tokens": chat_ids(tokenizer) == metadata["chats"],
        "num_chats": sum(ids is not None for ids in metadata["chats"]),
        "num_positions": len(reloaded),
        "device": model.device.type,
        "versions": {package: version(package) for package in PACKAGES},
    }


def base_hashes(directory: Path) -> dict[str, str]:
    """SHA-256 of each file of a base's weights."""
    return {path.name: sha256_of(path) for path in sorted(directory.glob("*.safetensors"))}


def answer(source: Source, prompt: str, max_new_tokens: int, on_text: Callable[[str], None]) -> dict[str, Any]:
    """A greedy answer to one question; `on_text` receives each piece of it as it is generated."""
    import torch

    tokenizer, model = source.tokenizer(), source.model()
    if model.device.type == "cpu" and source.base is not None:
        from loadcheck.stacks.transformers_cpu.cpu_kernels import compute_in_float32, speed_up_dequantize

        speed_up_dequantize()
        compute_in_float32(model)
    ids = _prompt_ids(tokenizer, prompt).to(model.device)
    start_s = time.monotonic()
    with torch.no_grad():
        found = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            temperature=None,
            top_p=None,
            pad_token_id=tokenizer.eos_token_id,
            streamer=_streamer(tokenizer, on_text),
        )
    new = found[0, ids.shape[1] :]
    return {
        "answer": tokenizer.decode(new, skip_special_tokens=True),
        "num_prompt_tokens": ids.shape[1],
        "num_new_tokens": len(new),
        "ended": len(new) < max_new_tokens,
        "generate_s": seconds_since(start_s),
        "device": model.device.type,
    }


def _streamer(tokenizer: Any, on_text: Callable[[str], None]) -> Any:
    """transformers' TextStreamer, which buffers until words are complete, calling `on_text` instead of printing."""
    from transformers import TextStreamer

    def on_finalized_text(_self: Any, text: str, stream_end: bool = False) -> None:  # noqa: ARG001
        if text:
            on_text(text)

    streamer_class = type("Streamer", (TextStreamer,), {"on_finalized_text": on_finalized_text})
    return streamer_class(tokenizer, skip_prompt=True, skip_special_tokens=True)


def _prompt_ids(tokenizer: Any, prompt: str) -> Any:
    """The prompt's tokens by the chat template, or of the plain text where there is none."""
    if tokenizer.chat_template is None:
        return tokenizer(prompt, return_tensors="pt")["input_ids"]
    chat = [{"role": "user", "content": prompt}]
    return tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt")
