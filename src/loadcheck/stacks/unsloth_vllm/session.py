"""A loaded model: its answers, its few training steps, and its adapters as vLLM receives them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from loadcheck.logs.events import Answer, SavedAdapter, Stepped, Trained
from loadcheck.specs.profile import Profile
from loadcheck.stacks.engine_common import TRAINING_TEXT, digest, expectation, finite, seconds_since, trainable
from loadcheck.stacks.recorder import Recorder
from loadcheck.stacks.unsloth_vllm.device import memory_now


@dataclass(frozen=True, slots=True)
class Generated:
    """An answer. `first_token_unix_s` is the time of its first token, None where the engine does not report it."""

    token_ids: list[int]
    adapter_enabled: bool
    first_token_unix_s: float | None

    @property
    def sha256(self) -> str:
        return sha256(json.dumps(self.token_ids).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Session:
    """A loaded model with the profile that it was loaded for."""

    profile: Profile
    model: Any
    tokenizer: Any
    recorder: Recorder

    def answer(
        self, event_type: type[Answer], adapter_id: int, before_record: Callable[[], None] = lambda: None
    ) -> Generated:
        """Generate one greedy answer with the current adapters, saved and read back; `before_record` is called whether that fails or not."""
        prompt, prompt_ids = self.profile.generation.prompt, self._prompt_ids()
        start_s = time.monotonic()
        try:
            generated = self._answer(prompt_ids, adapter_id)
            generate_s = seconds_since(start_s)
        finally:
            before_record()
        text = self.tokenizer.decode(generated.token_ids, skip_special_tokens=True)
        answer = event_type(
            prompt=prompt,
            text=text,
            num_prompt_tokens=len(prompt_ids),
            num_new_tokens=len(generated.token_ids),
            token_ids_sha256=generated.sha256,
            generate_s=generate_s,
            first_token_unix_s=generated.first_token_unix_s,
            adapter_enabled=generated.adapter_enabled,
            **expectation(self.profile, text),
            **memory_now(),
        )
        self.recorder.record(answer)
        return generated

    def _answer(self, prompt_ids: list[int], adapter_id: int) -> Generated:
        if not self.profile.fast_inference:  # the adapters are part of the model
            return Generated(self._generate(prompt_ids), self.profile.adapters is not None, None)
        request = None if self.profile.adapters is None else _lora_request(self.model, adapter_id)
        return self._generate_with_vllm(prompt_ids, request)

    def compare_saved(self, saved: Generated, adapter_id: int) -> None:
        """Record whether the saved adapters equal those in memory, byte for byte, and how many tokens the two answers share.

        They need not share all: vLLM's LoRA kernel sums its parts in any order (vllm/lora/ops/triton_ops/sgmv_shrink.py: SPLIT_K),
        and with random weights, where all tokens are about equally likely, answers soon diverge (after 10 tokens in one run).
        """
        tensors, config = _adapters_in_memory(self.model)
        same_weights = _same(
            tensors, _adapters_on_disk(self.model)[0]
        )  # first, as vLLM may scale them in place (vllm/lora/lora.py:40-46)
        in_memory = self._generate_with_vllm(self._prompt_ids(), _request(tensors, config, adapter_id))
        self.recorder.record(
            SavedAdapter(
                same_weights=same_weights,
                num_same_tokens=len(os.path.commonprefix([in_memory.token_ids, saved.token_ids])),
                num_new_tokens=len(in_memory.token_ids),
            )
        )

    def _prompt_ids(self) -> list[int]:
        messages = [{"role": "user", "content": self.profile.generation.prompt}]
        ids: list[int] = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True)
        return ids

    def _generate_with_vllm(self, prompt_ids: list[int], request: Any) -> Generated:
        from vllm import SamplingParams

        sampling = SamplingParams(temperature=0, max_tokens=self.profile.generation.max_new_tokens)
        prompts = [{"prompt_token_ids": prompt_ids}]
        outputs = self.model.fast_generate(prompts, sampling, use_tqdm=False, lora_request=request)
        loaded = self.model.vllm_engine.llm_engine.list_loras() if request is not None else ()
        adapter_enabled = request is not None and request.lora_int_id in loaded
        return Generated(list(outputs[0].outputs[0].token_ids), adapter_enabled, outputs[0].metrics.first_token_time)

    def _generate(self, prompt_ids: list[int]) -> list[int]:
        import torch
        from unsloth import FastLanguageModel

        FastLanguageModel.for_inference(self.model)
        ids = torch.tensor([prompt_ids], device="cuda")
        output = self.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=self.profile.generation.max_new_tokens,
            do_sample=False,
        )
        token_ids: list[int] = output[0, len(prompt_ids) :].tolist()
        return token_ids

    def train(self) -> None:
        """Train on one fixed text: the loss must fall, the adapters must change, and the base must not."""
        from unsloth import FastLanguageModel

        assert self.profile.adapters is not None
        FastLanguageModel.for_training(self.model, bool(self.profile.adapters.use_gradient_checkpointing))
        adapter_before, base_before = digest(trainable(self.model)), digest([_base_weight(self.model)])
        start_s = time.monotonic()
        losses = self._steps()
        self.recorder.record(
            Trained(
                train_s=seconds_since(start_s),
                first_loss=losses[0],
                last_loss=losses[-1],
                adapter_changed=digest(trainable(self.model)) != adapter_before,
                base_unchanged=digest([_base_weight(self.model)]) == base_before,
                **memory_now(),
            )
        )

    def _steps(self) -> list[float | None]:
        """The loss of each step; None where it is not finite."""
        import torch

        ids = self.tokenizer(
            TRAINING_TEXT, return_tensors="pt", truncation=True, max_length=self.profile.max_seq_length
        )
        input_ids = ids["input_ids"].to("cuda")
        dtype = self.model.get_input_embeddings().weight.dtype
        optimizer = torch.optim.AdamW(trainable(self.model), lr=self.profile.training.learning_rate)
        # float16 gradients (before Ampere) underflow without a scale; bfloat16 has the range of float32.
        scaler = torch.amp.GradScaler("cuda", enabled=dtype == torch.float16)
        losses = []
        for step in range(self.profile.training.steps):
            with torch.autocast("cuda", dtype=dtype):
                loss = self.model(input_ids=input_ids, labels=input_ids).loss
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            losses.append(finite(loss.item()))
            self.recorder.record(Stepped(step=step, loss=losses[-1]))
        return losses


def _base_weight(model: Any) -> Any:
    """The weight under the first adapter: packed bytes where the model is in 4-bit."""
    return next(module.base_layer.weight for module in model.modules() if hasattr(module, "lora_A"))


def _lora_request(model: Any, adapter_id: int) -> Any:
    """A request that makes vLLM use the adapters, saved and read back. `adapter_id` must be new and above 0.

    Not unsloth's `model.load_lora`: its first request has ID 0 (unsloth_zoo/vllm_utils.py:342, 1208), which vLLM treats as no
    adapter (vllm/worker/model_runner.py:634). Nor by path: unsloth_zoo/vllm_lora_worker_manager.py:119 then calls len(None).
    """
    return _request(*_adapters_on_disk(model), adapter_id)


def _request(tensors: dict[str, Any], config: dict[str, Any], adapter_id: int) -> Any:
    from vllm.lora.request import LoRARequest

    return LoRARequest(f"loadcheck-{adapter_id}", adapter_id, lora_tensors=tensors, lora_config=config)


def _adapters_on_disk(model: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The adapters' weights and config, saved and read back."""
    from safetensors.torch import load_file

    with TemporaryDirectory(prefix="loadcheck-adapter-") as folder:
        model.save_lora(folder)
        tensors = load_file(Path(folder, "adapter_model.safetensors"))
        config = json.loads(Path(folder, "adapter_config.json").read_text(encoding="utf-8"))
    return tensors, config


def _adapters_in_memory(model: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The same without a file: the weights named and cast as in unsloth_zoo/vllm_utils.py:1094-1102, 1217-1222."""
    dtype = model.get_input_embeddings().weight.dtype
    tensors = {
        name.replace(".default", ""): weight.to(dtype).cpu()
        for name, weight in model.state_dict().items()
        if ".lora_A." in name or ".lora_B." in name
    }
    config = model.peft_config["default"].to_dict()
    return tensors, config | {"target_modules": sorted(config["target_modules"])}


def _same(some: dict[str, Any], others: dict[str, Any]) -> bool:
    """Whether two sets of tensors have the same names and the same values."""
    return some.keys() == others.keys() and all(tensor.equal(others[name]) for name, tensor in some.items())
