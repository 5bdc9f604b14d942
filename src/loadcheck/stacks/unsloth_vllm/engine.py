"""The load on a GPU: unsloth with vLLM inside, stage by stage, each ending in an event that says what it measured.

What unsloth and vLLM print themselves is left as it is: the parent parses it from the raw log.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil

from loadcheck.errors import Problem, UnsupportedMachine
from loadcheck.plan import LoadPlan
from loadcheck.specs.profile import Adapters, Profile
from loadcheck.stacks.engine_common import TRAINING_TEXT, digest, expected_word, finite, seconds_since, trainable
from loadcheck.stacks.recorder import Recorder
from loadcheck.stacks.unsloth_vllm import startup

PACKAGES = (
    "torch", "triton", "vllm", "unsloth", "unsloth_zoo", "xformers", "transformers",
    "peft", "trl", "bitsandbytes", "accelerate", "numpy", "protobuf",
)  # fmt: skip

# The weights are local by now, and nothing of a load may depend on a network.
ENVIRONMENT = {
    "UNSLOTH_DISABLE_STATISTICS": "1",  # unsloth/models/_utils.py:604-692 downloads from the hub to be counted
    "VLLM_NO_USAGE_STATS": "1",  # vllm/usage/usage_lib.py:49-68 posts to a server every 10 minutes
    "DO_NOT_TRACK": "1",
    "HF_HUB_ENABLE_HF_TRANSFER": "0",  # unsloth/__init__.py:58 sets 1 where it is not set
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    # What unsloth itself sets at its import (unsloth/__init__.py:29-45): the driver is started before that.
    "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    "CUDA_VISIBLE_DEVICES": "0",
}
UNSET = (
    "VLLM_USE_V1",  # unsloth_zoo/vllm_utils.py:387 reaches into the V0 engine
    "VLLM_CONFIGURE_LOGGING",  # the log is what is parsed
    "VLLM_LOGGING_LEVEL",
    "UNSLOTH_USE_MODELSCOPE",  # unsloth/models/loader.py:36 would look for the directory on another hub
)


def run(plan: LoadPlan, directory: Path, recorder: Recorder) -> None:
    """Run the plan with the checkpoint in `directory`.

    BadInput for a profile that contradicts itself; UnsupportedMachine without a GPU that this stack can use.
    """
    profile = plan.profile
    check_visible_devices()
    startup.check_left_out()
    set_environment()
    if startup.taken("context"):
        startup.in_background(startup.make_context)
    if startup.taken("read_ahead"):
        startup.in_background(lambda: startup.read_ahead(directory))
    import_stack(recorder)
    record_device(recorder)
    model, tokenizer = load(profile, directory, recorder)
    if profile.adapters is not None:
        model = attach(model, profile.adapters, recorder)
    if profile.fast_inference:
        recorder.event("slots", lora_slots_bytes=lora_slots_bytes(_vllm_model(model)))
    session = Session(profile, model, tokenizer, recorder)
    session.answer("answer", adapter_id=1)
    if profile.training.steps:
        session.train()
        saved = session.answer("answer_after_training", adapter_id=2)
        if profile.fast_inference:
            session.compare_saved(saved, adapter_id=3)
    record_peak(recorder)
    recorder.event("done")
    if profile.fast_inference:
        leave_process_group()


# ---------------------------------------------------------------------------------------------------------- before import


def check_visible_devices() -> None:
    """Refuse what would fail minutes later, in a way that hides the cause."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible not in (None, "0"):
        # unsloth_zoo 2025.2.4 asks torch for cuda:<the first entry> (vllm_utils.py:949-953), but torch counts from 0.
        what = f"unsloth_zoo 2025.2.4 breaks with {visible!r}"
        remedy = "unset it, or set it to 0; in a container, choose the GPU with --gpus device=N"
        raise UnsupportedMachine(Problem("environment", what, remedy, "CUDA_VISIBLE_DEVICES"))


def set_environment() -> None:
    """The variables that unsloth, vLLM and the hub's client read once, at their import."""
    os.environ.update(ENVIRONMENT)
    for name in UNSET:
        os.environ.pop(name, None)


def import_stack(recorder: Recorder) -> None:
    """Import unsloth, before anything that it patches (torch, transformers, peft)."""
    start_s = time.monotonic()
    with startup.paused_collector():
        try:
            import unsloth  # noqa: F401
        except NotImplementedError as error:  # unsloth/__init__.py:90-91
            remedy = "see that nvidia-smi lists one; in a container, start it with --gpus all; or use the cpu profile"
            raise UnsupportedMachine(Problem("GPU", f"torch sees none ({error})", remedy)) from None
    import torch

    recorder.event(
        "imported",
        import_s=seconds_since(start_s),
        versions={package: version(package) for package in PACKAGES},
        cuda=torch.version.cuda,
    )


# ------------------------------------------------------------------------------------------------------------------ device


def memory_now() -> dict[str, int]:
    """The device's memory and torch's, in bytes. The peaks count from vLLM's profile run on, which resets them."""
    import torch

    free, total = torch.cuda.mem_get_info()
    return {
        "used_bytes": total - free,
        "allocated_bytes": torch.cuda.memory_allocated(),
        "reserved_bytes": torch.cuda.memory_reserved(),
        "peak_allocated_bytes": torch.cuda.max_memory_allocated(),
        "peak_reserved_bytes": torch.cuda.max_memory_reserved(),
    }


def record_device(recorder: Recorder) -> None:
    """What the prediction starts from: memory with the CUDA context there and nothing loaded."""
    import torch

    free, total = torch.cuda.mem_get_info()  # makes the context if there is none
    major, minor = torch.cuda.get_device_capability()
    recorder.event(
        "device",
        gpu_name=torch.cuda.get_device_name(),
        compute_capability=f"{major}.{minor}",
        device_total_bytes=total,
        device_free_bytes=free,
        ram_available_bytes=psutil.virtual_memory().available,
        driver=_driver_version(),
    )


def _driver_version() -> str:
    import pynvml

    pynvml.nvmlInit()
    try:
        return str(pynvml.nvmlSystemGetDriverVersion())
    finally:
        pynvml.nvmlShutdown()


def record_peak(recorder: Recorder) -> None:
    """The most device memory that was in use: torch's own peak, and what is in use now besides torch's."""
    memory = memory_now()
    besides = memory["used_bytes"] - memory["reserved_bytes"]
    recorder.event("peak", peak_device_bytes=besides + memory["peak_reserved_bytes"], **memory)


# -------------------------------------------------------------------------------------------------------------------- load


def load_arguments(profile: Profile, directory: Path) -> dict[str, Any]:
    """The arguments of `FastLanguageModel.from_pretrained` (unsloth/models/loader.py:62-84).

    An absolute directory under its exact name: any other makes unsloth fetch, and execute, its newest list of names.
    """
    arguments: dict[str, Any] = {
        "model_name": str(directory.resolve()),
        "use_exact_model_name": True,
        "max_seq_length": profile.max_seq_length,
        "load_in_4bit": profile.load_in_4bit,
        "fast_inference": profile.fast_inference,
        "max_lora_rank": profile.max_lora_rank,
        "gpu_memory_utilization": profile.gpu_memory_utilization,
    }
    # Passed on to unsloth_zoo's load_vllm, if it is there (unsloth/models/llama.py:1792-1795), else to transformers.
    if profile.fast_inference and profile.conservativeness != 1.0:
        arguments["conservativeness"] = profile.conservativeness
    if profile.fast_inference and profile.enforce_eager:  # unsloth_zoo/vllm_utils.py:794-814, 979
        arguments["enforce_eager"] = True
    if profile.fast_inference and profile.float8_kv_cache:
        arguments["float8_kv_cache"] = True
    if profile.fast_inference and profile.prefix_caching != "default":
        arguments["enable_prefix_caching"] = profile.prefix_caching == "on"
    return arguments


def load(profile: Profile, directory: Path, recorder: Recorder) -> tuple[Any, Any]:
    from unsloth import FastLanguageModel

    start_s = time.monotonic()
    if profile.fast_inference:
        startup.quicken_vllm()
    model, tokenizer = FastLanguageModel.from_pretrained(**load_arguments(profile, directory))
    recorder.event("loaded", load_s=seconds_since(start_s), **memory_now())
    startup.settle()
    return model, tokenizer


def attach(model: Any, adapters: Adapters, recorder: Recorder) -> Any:
    from unsloth import FastLanguageModel

    start_s = time.monotonic()
    model = FastLanguageModel.get_peft_model(
        model,
        r=adapters.r,
        lora_alpha=adapters.lora_alpha,
        lora_dropout=adapters.lora_dropout,
        bias=adapters.bias,
        target_modules=list(adapters.target_modules),
        use_gradient_checkpointing=adapters.use_gradient_checkpointing,
        random_state=adapters.random_state,
    )
    attach_s = seconds_since(start_s)
    trainable_params, total_params = model.get_nb_trainable_parameters()
    weights = trainable(model)
    recorder.event(
        "adapters",
        attach_s=attach_s,
        trainable_params=trainable_params,
        total_params=total_params,
        adapter_bytes=sum(weight.nbytes for weight in weights),
        adapter_dtype=", ".join(sorted({str(weight.dtype) for weight in weights})),
        adapter_sha256=digest(weights),
        **memory_now(),
    )
    return model


# ------------------------------------------------------------------------------------------------------------------- slots


def _vllm_model(model: Any) -> Any:
    """vLLM's own module tree, as unsloth_zoo/vllm_utils.py:387 reaches it."""
    return model.vllm_engine.llm_engine.model_executor.driver_worker.model_runner.model


def lora_slots_bytes(vllm_model: Any) -> int:
    """The buffers that wait for one adapter of the largest rank: plain attributes of vLLM's layers (vllm/lora/layers.py)."""
    names = ("lora_a_stacked", "lora_b_stacked", "embeddings_tensors")
    values = (vars(module).get(name) for module in vllm_model.modules() for name in names)
    # A layer may be reached under several names: count each tensor once. Linears hold a tuple, one tensor for each of q, k, v.
    tensors = {
        id(tensor): tensor
        for value in values
        if value is not None
        for tensor in (value if isinstance(value, tuple | list) else (value,))
    }
    return sum(tensor.nbytes for tensor in tensors.values())


# --------------------------------------------------------------------------------------------------- answers and training


@dataclass(frozen=True, slots=True)
class Generated:
    """An answer. `first_token_unix_s` is the time of its first token, None where it is not told."""

    token_ids: list[int]
    adapter_enabled: bool
    first_token_unix_s: float | None

    @property
    def sha256(self) -> str:
        return sha256(json.dumps(self.token_ids).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Session:
    """A loaded model, and what the profile asks of it."""

    profile: Profile
    model: Any
    tokenizer: Any
    recorder: Recorder

    def answer(self, event: str, adapter_id: int) -> Generated:
        """Generate one greedy answer with the adapters as they are now, saved and read back."""
        prompt, prompt_ids = self.profile.generation.prompt, self._prompt_ids()
        start_s = time.monotonic()
        if self.profile.fast_inference:
            request = None if self.profile.adapters is None else _lora_request(self.model, adapter_id)
            generated = self._generate_with_vllm(prompt_ids, request)
        else:  # the adapters are part of the model
            generated = Generated(self._generate(prompt_ids), self.profile.adapters is not None, None)
        generate_s = seconds_since(start_s)
        text = self.tokenizer.decode(generated.token_ids, skip_special_tokens=True)
        expected = expected_word(self.profile)
        self.recorder.event(
            event,
            prompt=prompt,
            text=text,
            num_prompt_tokens=len(prompt_ids),
            num_new_tokens=len(generated.token_ids),
            token_ids_sha256=generated.sha256,
            generate_s=generate_s,
            first_token_unix_s=generated.first_token_unix_s,
            adapter_enabled=generated.adapter_enabled,
            expected=expected,
            found=None if expected is None else expected.lower() in text.lower(),
            **memory_now(),
        )
        return generated

    def compare_saved(self, saved: Generated, adapter_id: int) -> None:
        """Whether what was saved and read back is what is in memory, to the byte, and how far the two answer alike.

        Not to the last token: vLLM's LoRA kernel adds up its parts in any order (vllm/lora/ops/triton_ops/sgmv_shrink.py: SPLIT_K),
        and on random weights, where all words are about as likely, an answer soon goes another way (after 10 tokens, seen).
        """
        tensors, config = _adapters_in_memory(self.model)
        request = _request(tensors, config, adapter_id)
        in_memory = self._generate_with_vllm(self._prompt_ids(), request)
        self.recorder.event(
            "saved_adapter",
            same_weights=_same(tensors, _adapters_on_disk(self.model)[0]),
            num_same_tokens=len(os.path.commonprefix([in_memory.token_ids, saved.token_ids])),
            num_new_tokens=len(in_memory.token_ids),
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
        """Steps on one fixed text: the loss must fall, the adapters change, and the base stay as it is."""
        from unsloth import FastLanguageModel

        assert self.profile.adapters is not None
        FastLanguageModel.for_training(self.model, bool(self.profile.adapters.use_gradient_checkpointing))
        adapter_before, base_before = digest(trainable(self.model)), digest([_base_weight(self.model)])
        start_s = time.monotonic()
        losses = self._steps()
        self.recorder.event(
            "trained",
            train_s=seconds_since(start_s),
            first_loss=losses[0],
            last_loss=losses[-1],
            adapter_changed=digest(trainable(self.model)) != adapter_before,
            base_unchanged=digest([_base_weight(self.model)]) == base_before,
            **memory_now(),
        )

    def _steps(self) -> list[float | None]:
        """The loss of each step; None where it is no number."""
        import torch

        ids = self.tokenizer(
            TRAINING_TEXT, return_tensors="pt", truncation=True, max_length=self.profile.max_seq_length
        )
        input_ids = ids["input_ids"].to("cuda")
        dtype = self.model.get_input_embeddings().weight.dtype
        optimizer = torch.optim.AdamW(trainable(self.model), lr=self.profile.training.learning_rate)
        # Gradients of float16 (before Ampere) underflow without a scale; bfloat16 has the range of float32.
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
            self.recorder.event("step", step=step, loss=losses[-1])
        return losses


def _base_weight(model: Any) -> Any:
    """The weight below the first adapter: packed bytes where the model is in 4-bit."""
    return next(module.base_layer.weight for module in model.modules() if hasattr(module, "lora_A"))


def _lora_request(model: Any, adapter_id: int) -> Any:
    """A request that makes vLLM use the adapters, saved and read back, under a number that must be new and above 0.

    Not unsloth's `model.load_lora`: its first request has the number 0 (unsloth_zoo/vllm_utils.py:342, 1208), which vLLM takes
    for none (vllm/worker/model_runner.py:634). Nor by path: unsloth_zoo/vllm_lora_worker_manager.py:119 calls len(None) then.
    """
    return _request(*_adapters_on_disk(model), adapter_id)


def _request(tensors: dict[str, Any], config: dict[str, Any], adapter_id: int) -> Any:
    from vllm.lora.request import LoRARequest

    return LoRARequest(f"loadcheck-{adapter_id}", adapter_id, lora_tensors=tensors, lora_config=config)


def _adapters_on_disk(model: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The adapters' weights and settings, saved and read back."""
    from safetensors.torch import load_file

    with TemporaryDirectory(prefix="loadcheck-adapter-") as folder:
        model.save_lora(folder)
        tensors = load_file(Path(folder, "adapter_model.safetensors"))
        config = json.loads(Path(folder, "adapter_config.json").read_text(encoding="utf-8"))
    return tensors, config


def _adapters_in_memory(model: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The same without a file: the weights as unsloth_zoo/vllm_utils.py:1094-1102, 1217-1222 names and casts them."""
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


def leave_process_group() -> None:
    """Without this, NCCL ends the log with a warning that its process group was not destroyed."""
    from vllm.distributed.parallel_state import destroy_distributed_environment, destroy_model_parallel

    destroy_model_parallel()
    destroy_distributed_environment()
